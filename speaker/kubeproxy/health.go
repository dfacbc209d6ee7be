package kubeproxy

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/berth-lb/berth/internal/async"
)

// askEvery is how often kube-proxy is asked. It does not notify anybody.
const askEvery = time.Second

// Health asks kube-proxy on this node whether its rules are up to date. Make one with NewHealth.
type Health struct {
	url     string // of its healthz; empty: it is not asked
	every   time.Duration
	changes *async.Stream[bool]
}

// NewHealth returns a Health that asks a URL, or nothing if that is empty.
func NewHealth(url string) *Health {
	return &Health{url: url, every: askEvery, changes: async.NewStream[bool](1)}
}

// Changes is the stream of changes: true when kube-proxy becomes unhealthy. It begins healthy.
func (h *Health) Changes() <-chan bool { return h.changes.C() }

// Run asks until the context ends. Only status 503 means unhealthy: kube-proxy returns it when its
// rules have been out of date for long. Without an answer kube-proxy may listen elsewhere, or
// something else may forward.
func (h *Health) Run(ctx context.Context) error {
	if h.url == "" {
		return nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url, nil)
	if err != nil {
		return fmt.Errorf("--kube-proxy-healthz %s: %w", h.url, err)
	}
	transport := &http.Transport{MaxIdleConns: 1} // without an HTTP proxy
	defer transport.CloseIdleConnections()
	client := &http.Client{Timeout: h.every, Transport: transport}
	tick := time.NewTicker(h.every)
	defer tick.Stop()
	unhealthy := false
	for {
		if now := saysUnhealthy(client, request); now != unhealthy && ctx.Err() == nil {
			unhealthy = now
			h.changes.Send(unhealthy)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func saysUnhealthy(client *http.Client, request *http.Request) bool {
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusServiceUnavailable
}
