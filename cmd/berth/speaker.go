package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/lines"
	"github.com/berth-lb/berth/internal/liveness"
	"github.com/berth-lb/berth/internal/steerquery"
	"github.com/berth-lb/berth/internal/trace"
	"github.com/berth-lb/berth/internal/version"
	"github.com/berth-lb/berth/speaker"
	"github.com/berth-lb/berth/speaker/contact"
	"github.com/berth-lb/berth/speaker/heart"
)

// sockets of the processes that do a part of the work; empty: this one does.
type sockets struct{ heart, bgp string }

func speakerCommand() *cobra.Command {
	var flags common
	var options speaker.Options
	var podCIDRs []string
	var at sockets
	c := &cobra.Command{
		Use:   "speaker",
		Short: "Announce the addresses of Services from this node",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if options.PodCIDRs, err = parsePrefixes(podCIDRs); err != nil {
				return fmt.Errorf("--pod-cidrs: %w", err)
			}
			return runSpeaker(c.Context(), flags, options, at)
		},
	}
	flags.register(c.Flags())
	c.Flags().
		StringVar(&options.Node, "node", envOr("NODE_NAME", ""), "name of the Node this runs on (environment NODE_NAME)")
	c.Flags().StringVar(&options.DaemonSet, "daemonset", "berth-speaker", "name of the speakers' DaemonSet")
	c.Flags().
		DurationVar(&options.DrainTime, "drain-time", 2*time.Second, "how long a leaving node announces its routes as a last resort (community GRACEFUL_SHUTDOWN) before it withdraws them")
	c.Flags().
		DurationVar(&options.LeaveDelay, "leave-delay", time.Second, "time between the withdrawal of the routes and the end of the BGP sessions")
	c.Flags().
		StringVar(&options.BGPListen, "bgp-listen", "", "[address]:port where routers may connect for BGP, such as :179, for BGPNeighbors with connect: Accept or with addressPrefix; empty: nowhere")
	c.Flags().StringVar(
		(*string)(&options.OnRestart), "on-restart", string(speaker.HandOver),
		"what happens to this node's addresses while the speaker is replaced: hand-over (other nodes take over first) or hold (other nodes wait for it, up to 10 s)",
	)
	c.Flags().StringVar(
		&options.ProxyHealthz,
		"kube-proxy-healthz",
		"http://127.0.0.1:10256/healthz",
		"URL of kube-proxy's healthz on this node; while it answers 503 the node announces nothing; empty: do not ask",
	)
	c.Flags().
		BoolVar(&options.IPVS, "ipvs", false, "forward by IPVS for LoadBalancerPools with dataplane IPVS, if the kernel can; see manifests/ipvs for what it needs")
	c.Flags().
		BoolVar(&options.Steering, "steering", false, "steer connections for LoadBalancerPools with dataplane Steering, if the kernel can; see manifests/steering for what it needs")
	c.Flags().
		StringVar(&options.NoticeListen, "notice-listen", ":7470", "with --steering: [address]:port (UDP) where nodes tell each other of dead nodes that not all hear; the same on all nodes; empty: nowhere")
	c.Flags().
		BoolVar(&options.ReportSilent, "report-silent-nodes", false, "say in the Speaker which nodes are not heard any more, for a controller with --fence-dead-nodes; see manifests/fence")
	c.Flags().StringVar(
		&options.ProxyMode,
		"kube-proxy-mode",
		"http://127.0.0.1:10249/proxyMode",
		"with --ipvs: URL at which kube-proxy on this node reports its mode, since mode ipvs deletes virtual servers that kube-proxy did not make; empty: do not ask",
	)
	c.Flags().StringVar(
		&options.IPVSSysctls, "ipvs-sysctls", "/proc/sys/net/ipv4/vs",
		"writable directory of the sysctls net.ipv4.vs",
	)
	c.Flags().
		StringSliceVar(&podCIDRs, "pod-cidrs", nil, "with --ipvs: ranges of the addresses of this node's pods, or of all pods, separated by commas; default: spec.podCIDRs of its Node")
	c.Flags().
		StringVar(&at.heart, "heart", "", "socket of berth-heart on this node, which answers ARP, NDP and BFD in a process of its own; empty: this process does")
	c.Flags().
		StringVar(&at.bgp, "bgp", "", "socket of berth-bgp on this node, which speaks BGP in a process of its own; empty: this process does")
	return c
}

func parsePrefixes(texts []string) ([]netip.Prefix, error) {
	var found []netip.Prefix
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf(
				"%q is not a valid range of addresses; write it like 10.244.1.0/24 or fd00:244:1::/64",
				text,
			)
		}
		found = append(found, prefix.Masked())
	}
	return found, nil
}

// noticeDeadConnections has client-go notice a connection that was cut silently within 8 s: watches
// are to be found dead before this node's picture of the API counts as stale. client-go has no
// other way to set that.
func noticeDeadConnections() error {
	for name, seconds := range map[string]string{
		"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "5",
		"HTTP2_PING_TIMEOUT_SECONDS":      "3",
	} {
		if os.Getenv(name) != "" {
			continue // the operator knows better
		}
		if err := os.Setenv(name, seconds); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// garbage is how much of it there may be, in percent of what is used. A speaker makes little, and
// there is one on each node: its memory is worth more than what the collector computes.
const garbage = 25

func runSpeaker(ctx context.Context, flags common, options speaker.Options, other sockets) error {
	if options.Node == "" {
		return errors.New("--node is empty: give it, or set NODE_NAME from spec.nodeName (downward API)")
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	logger := flags.logger()
	// The clients outlive the signal, since leaving needs them.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	if err := noticeDeadConnections(); err != nil {
		return err
	}
	at, err := flags.listenOn(ctx)
	if err != nil {
		return err
	}
	defer at.close()
	registry := newRegistry()
	if options.Contact, err = contact.New(registry); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	options.Rewound = async.NewSignal()
	to, err := flags.connect("speaker", logger, options.Contact.Transport, options.Rewound.Notify)
	if err != nil {
		return err
	}
	options.Kubernetes, options.Berth, options.Events = to.kubernetes, to.berth, to.events
	options.Logger, options.Metrics, options.Namespace = logger, registry, flags.namespace
	options.Version, options.Listen = version.Number(), flags.listen
	options.MetricsPerService = flags.perService
	registry.MustRegister(to.events.lost)
	loops := liveness.New()
	group, life := errgroup.WithContext(loops.Context(life))
	if options.Heart, err = reachHeart(life, group, other.heart, logger); err != nil {
		return err
	}
	if other.heart != "" { // which has a socket of its own for this
		options.Trace = trace.New()
		if l, err := trace.ListenBeside(life, other.heart, "speaker"); err != nil {
			logger.Warn("nobody can read the trace", "error", err)
		} else {
			group.Go(func() error { options.Trace.Serve(life, l, logger); return nil })
		}
	}
	if other.bgp != "" {
		options.BGP = lines.Dial(other.bgp)
	}
	s, err := speaker.New(options)
	if err != nil {
		return err
	}
	if other.heart != "" { // beside its socket; the process itself has none
		if l, err := steerquery.ListenBeside(life, other.heart); err != nil {
			logger.Warn("nobody can ask where packets are steered", "error", err)
		} else {
			group.Go(func() error { steerquery.Serve(life, l, logger, s.RouteOf); return nil })
		}
	}
	group.Go(func() error { to.events.run(life); return nil })
	group.Go(func() error {
		return flags.serve(life, at, logger, to.kubernetes, prometheus.Gatherers{registry, s}, loops, s.Ready)
	})
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	defer context.AfterFunc(life, leave)() // when what serves fails
	group.Go(func() error {
		defer end()
		return s.Run(loops.Context(ctx))
	})
	return group.Wait()
}

// reachHeart returns how to connect to the heart: at the socket, or else within this process, where
// the group runs it.
func reachHeart(
	ctx context.Context,
	group *errgroup.Group,
	socket string,
	logger *slog.Logger,
) (func(context.Context) (net.Conn, error), error) {
	if socket != "" {
		return lines.Dial(socket), nil
	}
	within, err := heart.New(heart.Config{Logger: logger, Within: true})
	if err != nil {
		return nil, err
	}
	l, dial := heart.Pipe()
	group.Go(func() error { return within.Run(ctx, l) })
	return dial, nil
}
