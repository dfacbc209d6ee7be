package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/berth-lb/berth/internal/liveness"
)

// freeAddress returns an address of this machine that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestServe(t *testing.T) {
	for _, c := range []struct {
		name   string
		secure bool
		want   map[string]string // by scheme and path
	}{
		{
			name: "metrics for everybody",
			want: map[string]string{"http /healthz": "200", "http /readyz": "200", "http /metrics": "200"},
		},
		{
			name:   "metrics over TLS, for those who may read them",
			secure: true,
			want: map[string]string{
				"http /healthz": "200", "http /readyz": "200", "http /metrics": "404",
				"https /metrics": "401", "https /healthz": "404",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			flags := common{listen: freeAddress(t)}
			if c.secure {
				flags.metrics.listen = freeAddress(t)
			}
			ctx, cancel := context.WithCancel(t.Context())
			at, err := flags.listenOn(ctx)
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() {
				ended <- flags.serve(
					ctx, at, slog.New(slog.DiscardHandler), fake.NewClientset(), newRegistry(), liveness.New(),
					func() bool { return true },
				)
			}()
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
			defer client.CloseIdleConnections()
			for at, want := range c.want {
				var scheme, path string
				if _, err := fmt.Sscan(at, &scheme, &path); err != nil {
					t.Fatal(err)
				}
				address := flags.listen
				if scheme == "https" {
					address = flags.metrics.listen
				}
				if got := statusOf(t, client, scheme+"://"+address+path); got != want {
					t.Errorf("%s: %s, want %s", at, got, want)
				}
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// statusOf returns the status of a response, and waits for the server to listen.
func statusOf(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(r)
		if err == nil {
			response.Body.Close()
			return fmt.Sprint(response.StatusCode)
		}
		select {
		case <-again.C:
		case <-t.Context().Done():
			t.Fatal(err)
		}
	}
}

func TestServeFails(t *testing.T) {
	taken := listenHere(t)
	for _, c := range []struct {
		name  string
		flags common
		want  string
	}{
		{
			name:  "an address that is none",
			flags: common{listen: "nowhere"},
			want:  "--listen nowhere: ",
		},
		{
			name:  "an address that is taken",
			flags: common{listen: taken},
			want:  "--listen " + taken + ": another program listens there; end it, or choose another address: ",
		},
		{
			name:  "an address for metrics that is none",
			flags: common{listen: "127.0.0.1:0", metrics: metricsFlags{listen: "nowhere"}},
			want:  "--metrics-listen nowhere: ",
		},
		{
			name:  "a certificate without a key",
			flags: common{metrics: metricsFlags{listen: "127.0.0.1:0", cert: "x"}},
			want:  "--metrics-cert, --metrics-key: ",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			at, err := c.flags.listenOn(t.Context())
			if err == nil {
				err = c.flags.serve(
					t.Context(),
					at,
					slog.New(slog.DiscardHandler),
					fake.NewClientset(),
					newRegistry(),
					liveness.New(),
					func() bool { return true },
				)
			}
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%v, want %s...", err, c.want)
			}
		})
	}
}

// listenHere listens until the end of the test, and returns where.
func listenHere(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

func TestBoundedListener(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := &port{flag: "--listen", listener: newBoundedListener(l)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		answer := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }
		ended <- served.serve(ctx, http.HandlerFunc(answer), nil)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})

	// A flood from an address has as many connections as are allowed.
	kept := map[string][]net.Conn{}
	flood := func(from string, count int) {
		for range count {
			conn := dialFrom(t, from, l.Addr().String())
			if answers(t, conn) {
				kept[from] = append(kept[from], conn)
			}
		}
	}
	flood("127.0.0.2", connectionsOfOne+20)
	if n := len(kept["127.0.0.2"]); n != connectionsOfOne {
		t.Errorf("%d connections of one address are open, want %d", n, connectionsOfOne)
	}
	for i := range 10 {
		flood(fmt.Sprint("127.0.1.", i), connectionsOfOne)
	}
	all := 0
	for _, conns := range kept {
		all += len(conns)
	}
	if all != connectionsOfAll {
		t.Errorf("%d connections are open, want %d", all, connectionsOfAll)
	}
	// The node itself has room, and others have when some of theirs end.
	if !answers(t, dialFrom(t, "127.0.0.1", l.Addr().String())) {
		t.Error("the node's own connection is not served")
	}
	for _, conn := range kept["127.0.0.2"] {
		conn.Close()
	}
	for !answers(t, dialFrom(t, "127.0.3.1", l.Addr().String())) {
		if t.Context().Err() != nil {
			t.Fatal("there is no room for others when connections have ended")
		}
	}
}

func dialFrom(t *testing.T, from, to string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// answers reports whether a request over the connection has an answer. The connection stays open.
func answers(t *testing.T, conn net.Conn) bool {
	t.Helper()
	if _, err := fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return false
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return false
	}
	return r.Body.Close() == nil
}

// A loop that is stuck fails the liveness probe, and is named.
func TestServe_healthz(t *testing.T) {
	flags := common{listen: "127.0.0.1:0"}
	at, err := flags.listenOn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	loops := liveness.New()
	ctx, cancel := context.WithCancel(loops.Context(t.Context()))
	ended := make(chan error, 1)
	go func() {
		ended <- flags.serve(
			ctx, at, slog.New(slog.DiscardHandler), fake.NewClientset(), newRegistry(), loops, func() bool { return true },
		)
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	get := func(status int, want string) {
		t.Helper()
		response, err := http.Get("http://" + at.health.listener.Addr().String() + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != status || !strings.HasPrefix(string(text), want) {
			t.Errorf("status %d, %q (%v), want %d and %q...", response.StatusCode, text, err, status, want)
		}
	}
	get(http.StatusOK, "ok\n")
	pass := liveness.Of(ctx, "planner", time.Nanosecond)
	pass.Begin()
	get(http.StatusServiceUnavailable, "loop planner is stuck since 2")
	pass.End()
	get(http.StatusOK, "ok\n")
}
