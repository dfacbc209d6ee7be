package contact

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"
)

// Watches that are replaced by others have to be open until one of those is.
func TestTurn(t *testing.T) {
	server := newServer(t)
	t.Cleanup(server.Close)
	m, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: m.Transport(http.DefaultTransport)}
	open := func(turn *Turn, path string) func() {
		t.Helper()
		ctx, cancel := context.WithCancel(turn.With(t.Context()))
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+path+"?watch=true", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			cancel()
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
		}
	}
	wants := func(when string, want bool) {
		t.Helper()
		if got := m.open(time.Now().Add(time.Minute)); got != want {
			t.Errorf("%s: all are open: %v, want %v", when, got, want)
		}
	}
	var none *Turn
	first := none.Next()
	endAll, endDigests := open(first, "/nodes"), open(first, "/configmaps")
	wants("both are open", true)
	endAll()
	wants("one has ended", false)
	endDigests()
	second := first.Next() // its watches never open
	third := second.Next()
	wants("another turn has come, and has not begun", false)
	endAgain := open(third, "/configmaps")
	wants("a watch of another turn is open", true)
	server.refuses.Store(true)
	open(third, "/nodes/n1")()
	wants("another watch of it is refused", false)
	server.refuses.Store(false)
	endOwn := open(third, "/nodes/n1")
	wants("and is not any more", true)
	endOwn()
	endAgain()
	wants("they have ended", false)
}
