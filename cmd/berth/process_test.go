package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/fake"
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
			ended := make(chan error, 1)
			go func() {
				ended <- flags.serve(
					ctx, slog.New(slog.DiscardHandler), fake.NewClientset(), newRegistry(), func() bool { return true },
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
	for _, c := range []struct {
		name  string
		flags common
	}{
		{name: "an address that is none", flags: common{listen: "nowhere"}},
		{name: "an address for metrics that is none", flags: common{metrics: metricsFlags{listen: "nowhere"}}},
		{name: "a certificate without a key", flags: common{metrics: metricsFlags{listen: "127.0.0.1:0", cert: "x"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.flags.serve(
				t.Context(), slog.New(slog.DiscardHandler), fake.NewClientset(), newRegistry(), func() bool { return true },
			)
			if err == nil {
				t.Error("no error")
			}
		})
	}
}
