package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"
	_ "k8s.io/component-base/metrics/prometheus/restclient" // registers the metrics of client-go
	_ "k8s.io/component-base/metrics/prometheus/workqueue"  // registers the metrics of work queues
	"k8s.io/klog/v2"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/liveness"
	"github.com/berth-lb/berth/internal/rewind"
	"github.com/berth-lb/berth/internal/version"
)

// common are the flags of both programs.
type common struct {
	kubeconfig string
	namespace  string
	listen     string
	metrics    metricsFlags
	verbose    bool
	perService bool
}

func (c *common) register(flags *pflag.FlagSet) {
	flags.StringVar(&c.kubeconfig, "kubeconfig", "", "kubeconfig file; default: the Pod's ServiceAccount")
	flags.StringVar(
		&c.namespace, "namespace", envOr("NAMESPACE", "berth-system"),
		"namespace of Berth's own objects (environment NAMESPACE)",
	)
	flags.StringVar(&c.listen, "listen", ":7470", "address for /healthz, /readyz and /metrics; empty: none")
	flags.BoolVar(
		&c.perService, "metrics-per-service", false,
		"also serve metrics with series for each Service and each endpoint, of which there may be many",
	)
	flags.StringVar(&c.metrics.listen, "metrics-listen", "", "address for /metrics over TLS, for tokens that may get it by RBAC; then --listen has no metrics; empty: none")
	flags.StringVar(&c.metrics.cert, "metrics-cert", "", "with --metrics-listen: file of the certificate (PEM), read again for each connection; empty: one is made")
	flags.StringVar(&c.metrics.key, "metrics-key", "", "with --metrics-listen: file of the certificate's key (PEM)")
	flags.BoolVarP(&c.verbose, "verbose", "v", false, "log details, too")
}

// metricsFlags are the flags of metrics over TLS.
type metricsFlags struct{ listen, cert, key string }

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// logger returns the one logger, with the Kubernetes libraries' logs bridged to it.
func (c *common) logger() *slog.Logger {
	level := slog.LevelInfo
	if c.verbose {
		level = slog.LevelDebug
	}
	handler := slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level})
	klog.SetLogger(logr.FromSlogHandler(libraryLog{handler}))
	return slog.New(handler)
}

// libraryLog is the log of Kubernetes' libraries. To find that another instance was first is no
// error, which leader election says when several start at once.
type libraryLog struct{ slog.Handler }

// Handle implements slog.Handler.
func (l libraryLog) Handle(ctx context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok && apierrors.IsAlreadyExists(err) {
			r.Level = slog.LevelInfo
		}
		return r.Level == slog.LevelError
	})
	return l.Handler.Handle(ctx, r) //nolint:wrapcheck // the handler's own words
}

// WithAttrs implements slog.Handler.
func (l libraryLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return libraryLog{l.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (l libraryLog) WithGroup(name string) slog.Handler { return libraryLog{l.Handler.WithGroup(name)} }

// clients are the clients of the API server, one for each purpose.
type clients struct {
	kubernetes kubernetes.Interface
	berth      *client.Interface
	events     *recorder // to be run
}

// connect returns clients that are named after the component and send their requests through wrap,
// unless it is nil. It calls rewound, from any goroutine, when the API server's storage was
// restored to an older state. It does not connect to the API server yet.
func (c *common) connect(
	component string,
	logger *slog.Logger,
	wrap transport.WrapperFunc,
	rewound func(),
) (*clients, error) {
	config, err := c.restConfig()
	if err != nil {
		return nil, err
	}
	config.Wrap(wrap)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return rewind.Transport(next, rewound) })
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return progress{next} })
	config.UserAgent = "berth-" + component + "/" + version.Number()
	// The API server protects itself by its own priority and fairness. A lower limit here would only
	// delay the first response to a large change.
	config.QPS, config.Burst = 500, 1000
	builtin := rest.CopyConfig(config) // Protobuf is cheaper for both sides; custom resources do not have it
	builtin.ContentType = runtime.ContentTypeProtobuf
	builtin.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	set, err := kubernetes.NewForConfig(builtin)
	if err != nil {
		return nil, fmt.Errorf("client of the API server: %w", err)
	}
	own, err := client.New(config)
	if err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("register kinds: %w", err)
	}
	logger.Info("starting", "component", component, "version", version.Number(), "server", config.Host)
	return &clients{set, own, newRecorder(set.EventsV1(), scheme, component, logger)}, nil
}

// progress notes on the loop of a request that it was answered.
type progress struct{ http.RoundTripper }

// RoundTrip makes a request.
func (p progress) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := p.RoundTripper.RoundTrip(r)
	liveness.Progress(r.Context())
	return response, err //nolint:wrapcheck // the client knows the errors of its transport
}

func (c *common) restConfig() (*rest.Config, error) {
	if c.kubeconfig != "" {
		config, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("--kubeconfig %s: %w", c.kubeconfig, err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("not in a Pod (%w); use --kubeconfig outside of one", err)
	}
	return config, nil
}

func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	registry.MustRegister(buildInfo(version.Get()))
	return registry
}
