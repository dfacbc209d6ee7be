package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/berth-lb/berth/internal/liveness"
	"github.com/berth-lb/berth/internal/metricsauth"
)

// Bounds of what answers health probes and metrics. A speaker's port is one of the host. Programs
// that reach the node can connect to it, and must neither slow the speaker down nor hide it from
// the kubelet.
const (
	connectionsOfOne = 32 // of one address at a time
	connectionsOfAll = 256
	scrapesAtOnce    = 2
	scrapeWithin     = 20 * time.Second
	requestWithin    = 5 * time.Second
	idleFor          = 2 * time.Minute // longer than between two scrapes
)

// port is an address that the program listens on.
type port struct {
	flag, address string
	listener      net.Listener
}

// ports are where health and metrics are served.
type ports struct{ health, metrics *port } // nil: not served

// listenOn takes the ports. They are free for other programs after close.
func (c *common) listenOn(ctx context.Context) (ports, error) {
	var p ports
	for _, at := range []struct {
		flag, address string
		port          **port
	}{{"--listen", c.listen, &p.health}, {"--metrics-listen", c.metrics.listen, &p.metrics}} {
		if at.address == "" {
			continue
		}
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", at.address)
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			p.close()
			return ports{}, fmt.Errorf("%s %s: another program listens there; end it, or choose another address: %w", at.flag, at.address, err)
		case err != nil:
			p.close()
			return ports{}, fmt.Errorf("%s %s: %w", at.flag, at.address, err)
		}
		*at.port = &port{flag: at.flag, address: at.address, listener: newBoundedListener(l)}
	}
	return p, nil
}

func (p ports) close() {
	for _, port := range []*port{p.health, p.metrics} {
		if port != nil {
			_ = port.listener.Close()
		}
	}
}

// kubernetesMetrics gathers those metrics of Kubernetes' libraries that say how the work goes: of
// requests to the API server, and of work queues. The rest of their registry is about the process,
// or has a series for each verb, host and size.
var kubernetesMetrics = prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
	all, err := legacyregistry.DefaultGatherer.Gather()
	return slices.DeleteFunc(all, func(f *dto.MetricFamily) bool {
		switch f.GetName() {
		case "rest_client_requests_total", "rest_client_request_duration_seconds", "rest_client_request_retries_total":
			return false
		}
		return !strings.HasPrefix(f.GetName(), "workqueue_")
	}), err
})

// serve answers health probes and metrics until the context ends.
func (c *common) serve(
	ctx context.Context,
	at ports,
	logger *slog.Logger,
	client kubernetes.Interface,
	registry prometheus.Gatherer,
	loops *liveness.Loops,
	ready func() bool,
) error {
	defer at.close()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answerHealth(w, logger, loops.Stuck()) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	metrics := promhttp.HandlerFor(prometheus.Gatherers{registry, kubernetesMetrics}, promhttp.HandlerOpts{
		MaxRequestsInFlight: scrapesAtOnce,
		ErrorHandling:       promhttp.ContinueOnError, // without those of a heart that is away
		Timeout:             scrapeWithin,
	})
	group, ctx := errgroup.WithContext(ctx)
	if at.metrics == nil {
		mux.Handle("GET /metrics", metrics)
	} else {
		certificate, err := metricsauth.NewCertificate(c.metrics.cert, c.metrics.key, hostname(), logger)
		if err != nil {
			return fmt.Errorf("--metrics-cert, --metrics-key: %w", err)
		}
		guarded := http.NewServeMux()
		guarded.Handle("GET /metrics", metricsauth.NewGate(client, logger, metrics))
		group.Go(func() error { return at.metrics.serve(ctx, guarded, certificate.Config()) })
	}
	if at.health != nil {
		group.Go(func() error { return at.health.serve(ctx, mux, nil) })
	}
	<-ctx.Done()
	return group.Wait()
}

// answerHealth says which loops are stuck. The kubelet restarts the process then.
func answerHealth(w http.ResponseWriter, logger *slog.Logger, stuck []liveness.Stuck) {
	if len(stuck) == 0 {
		_, _ = fmt.Fprintln(w, "ok")
		return
	}
	var text strings.Builder
	for _, s := range stuck {
		logger.Error("a loop is stuck", "loop", s.Loop, "since", s.Since)
		fmt.Fprintf(&text, "loop %s is stuck since %s\n", s.Loop, s.Since.UTC().Format(time.RFC3339))
	}
	http.Error(w, text.String(), http.StatusServiceUnavailable)
}

// serve answers until the context ends, over TLS if there is a configuration of it.
func (p *port) serve(ctx context.Context, handler http.Handler, secure *tls.Config) error {
	server := &http.Server{
		Handler:      handler,
		TLSConfig:    secure,
		ReadTimeout:  requestWithin,
		WriteTimeout: scrapeWithin + requestWithin,
		IdleTimeout:  idleFor,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	var err error
	if secure != nil {
		err = server.ServeTLS(p.listener, "", "")
	} else {
		err = server.Serve(p.listener)
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("%s %s: %w", p.flag, p.address, err)
	}
	return nil
}

// boundedListener bounds how many connections are open at a time, of each address and in all. What
// is more it closes at once: it would wait for the others otherwise, and so would a health probe.
// The node's own connections do not count in all, so that others cannot use up the kubelet's.
type boundedListener struct {
	net.Listener

	mu     sync.Mutex // guards what follows
	open   map[netip.Addr]int
	others int // open ones that do not come from the node itself
}

func newBoundedListener(l net.Listener) *boundedListener {
	return &boundedListener{Listener: l, open: map[netip.Addr]int{}}
}

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err //nolint:wrapcheck // the server knows the errors of a listener
		}
		from := addressOf(conn.RemoteAddr())
		own := from == addressOf(conn.LocalAddr())
		if !l.enter(from, own) {
			_ = conn.Close()
			continue
		}
		return &boundedConn{Conn: conn, leave: sync.OnceFunc(func() { l.leave(from, own) })}, nil
	}
}

func addressOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// enter counts a connection, and reports whether there is room for it.
func (l *boundedListener) enter(from netip.Addr, own bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[from] >= connectionsOfOne || !own && l.others >= connectionsOfAll {
		return false
	}
	l.open[from]++
	if !own {
		l.others++
	}
	return true
}

func (l *boundedListener) leave(from netip.Addr, own bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[from]--; l.open[from] == 0 {
		delete(l.open, from)
	}
	if !own {
		l.others--
	}
}

// boundedConn makes room for another connection when it is closed.
type boundedConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	c.leave()
	return c.Conn.Close() //nolint:wrapcheck // the server knows the errors of a connection
}
