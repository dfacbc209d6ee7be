package speaker

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// proxyEvery is how often kube-proxy is asked; it tells of nothing by itself.
const proxyEvery = time.Second

// dataPath asks kube-proxy on this node whether it does its work.
type dataPath struct {
	url     string // of its healthz; empty: nobody is asked
	every   time.Duration
	changed func(unhealthy bool)
}

// run asks until the context ends, and tells of each change. Only 503 is a bad
// answer: kube-proxy gives it when its rules fall behind for long. No answer can
// mean that it listens elsewhere, or that something else forwards.
func (d dataPath) run(ctx context.Context) error {
	if d.url == "" {
		return nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url, nil)
	if err != nil {
		return fmt.Errorf("--kube-proxy-healthz %s: %w", d.url, err)
	}
	transport := &http.Transport{MaxIdleConns: 1} // by way of no HTTP proxy
	defer transport.CloseIdleConnections()
	client := &http.Client{Timeout: d.every, Transport: transport}
	tick := time.NewTicker(d.every)
	defer tick.Stop()
	unhealthy := false
	for {
		if now := saysUnhealthy(client, request); now != unhealthy && ctx.Err() == nil {
			unhealthy = now
			d.changed(unhealthy)
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
