package steerquery

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/berth-lb/berth/internal/lines"
)

func query(service, client, protocol string) Query {
	return Query{netip.MustParseAddrPort(service), netip.MustParseAddrPort(client), protocol}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		q    Query
		want string // in the error; empty: it is right
	}{
		{query("192.0.2.1:80", "198.51.100.9:40000", "TCP"), ""},
		{query("[2001:db8::1]:80", "[2001:db8::9]:40000", "SCTP"), ""},
		{Query{}, "service invalid AddrPort: is not an address and a port"},
		{query("192.0.2.1:0", "198.51.100.9:40000", "TCP"), "service 192.0.2.1:0: is not"},
		{query("192.0.2.1:80", "0.0.0.0:40000", "TCP"), "client 0.0.0.0:40000: is not"},
		{query("192.0.2.1:80", "224.0.0.1:40000", "TCP"), "client 224.0.0.1:40000: is not"},
		{query("192.0.2.1:80", "[::ffff:198.51.100.9]:40000", "TCP"), "client [::ffff:198.51.100.9]:40000: is not"},
		{query("[2001:db8::1]:80", "[fe80::1%eth0]:40000", "TCP"), "client [fe80::1%eth0]:40000: is not"},
		{query("192.0.2.1:80", "[2001:db8::9]:40000", "TCP"), "is of another family"},
		{query("192.0.2.1:80", "198.51.100.9:40000", "tcp"), `protocol "tcp": is not known; write one of TCP, UDP, SCTP`},
	} {
		err := c.q.Check()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.q, err, c.want)
		}
	}
}

// serving returns a folder in which a speaker answers.
func serving(t *testing.T, answer func(Query) Answer) (folder string) {
	t.Helper()
	folder = t.TempDir()
	at, err := ListenBeside(t.Context(), filepath.Join(folder, "heart.sock"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { defer close(done); Serve(ctx, at, slog.New(slog.DiscardHandler), answer) }()
	t.Cleanup(func() { cancel(); <-done })
	return folder
}

func TestAsk(t *testing.T) {
	asked := query("192.0.2.1:80", "198.51.100.9:40000", "TCP")
	want := Answer{
		Slot: 0, Slots: 4096, Ranks: []Rank{{Node: "n1", Dead: true}, {Node: "n2", Draining: true}, {Node: "n3"}},
		Node: "n3", Reason: "first", Asks: "n2",
	}
	folder := serving(t, func(q Query) Answer {
		if q != asked {
			t.Errorf("asked %+v", q)
		}
		return want
	})
	if got, err := Ask(t.Context(), folder, asked); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := Ask(t.Context(), folder, Query{}); err == nil {
		t.Error("a query without anything is asked")
	}
	if _, err := Ask(t.Context(), t.TempDir(), asked); err == nil ||
		!strings.Contains(err.Error(), "the speaker cannot be asked") {
		t.Errorf("without a speaker: %v", err)
	}
}

// Who writes something else than a query gets a short error, and nothing is looked up.
func TestServe_refuses(t *testing.T) {
	folder := serving(t, func(q Query) Answer { t.Errorf("asked %+v", q); return Answer{} })
	const right = `"service": "192.0.2.1:80", "client": "198.51.100.9:4"`
	for _, text := range []string{
		"{}", "[]", `"x"`, "{" + right + `, "protocol": "GRE"}`, "{" + right + `, "protocol": "TCP", "seed": 1}`,
		"{" + right + `, "protocol": "` + strings.Repeat("x", 2*mostAsked) + `"}`,
	} {
		conn, err := lines.Dial(filepath.Join(folder, socket))(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintln(conn, text); err != nil {
			t.Fatal(err)
		}
		// It may close while some of what is too long is on its way.
		said, _ := io.ReadAll(conn)
		_ = conn.Close()
		if !strings.HasPrefix(string(said), `{"error":"`) || len(said) > mostAsked {
			t.Errorf("%.60s: answered %.200s", text, said)
		}
	}
}
