package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/berth-lb/berth/config/dialect"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/liveness"
	"github.com/berth-lb/berth/speaker/heart"
)

// Times of the leader election. A standby takes over leaseDuration after it first saw the leader's
// last renewal, and looks every 1 to 2.2 retryPeriods: it takes over 7.5 to 10 s after a crash, and
// at once when the leader ends cleanly. A leader writes nothing later than renewDeadline after a
// renewal.
const (
	leaseName     = "berth-controller"
	leaseDuration = 8 * time.Second
	renewDeadline = 6 * time.Second
	retryPeriod   = 500 * time.Millisecond
)

func controllerCommand() *cobra.Command {
	var flags common
	var options controller.Options
	var identity string
	var provider bool
	var serviceCIDRs, podCIDRs, honored []string
	c := &cobra.Command{
		Use:   "controller",
		Short: "Give addresses to Services of type LoadBalancer",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if provider && !options.Classless {
				return errNothingToServe
			}
			by := reconcilerMode
			if provider {
				by = providerMode
			}
			var err error
			if options.ServiceCIDRs, err = parsePrefixes(serviceCIDRs); err != nil {
				return fmt.Errorf("--service-cidrs: %w", err)
			}
			if options.PodCIDRs, err = parsePrefixes(podCIDRs); err != nil {
				return fmt.Errorf("--pod-cidrs: %w", err)
			}
			if options.Honored, err = dialect.Parse(honored); err != nil {
				return fmt.Errorf("--honor-annotations: %w", err)
			}
			if options.FenceDryRun && !options.Fence {
				return errNothingToFence
			}
			if options.Rest < heart.YieldsAfter {
				flags.logger().Warn("a freed address may be answered for by a node that has lost the API server when another Service has it by now",
					"--rest", options.Rest, "least", heart.YieldsAfter)
			}
			return runController(c.Context(), flags, options, by, identity)
		},
	}
	flags.register(c.Flags())
	c.Flags().BoolVar(&options.Classless, "serve-classless", true, "also serve Services without spec.loadBalancerClass, unless another implementation gave them their addresses")
	c.Flags().StringSliceVar(
		&options.Classes, "classes", []string{v1alpha1.LoadBalancerClass},
		"values of spec.loadBalancerClass to serve, separated by commas",
	)
	c.Flags().DurationVar(&options.Rest, "rest", time.Minute, "how long a freed address rests before another Service gets it, so that no node still announces it; 0: not at all")
	c.Flags().StringSliceVar(&serviceCIDRs, "service-cidrs", nil, "ranges of ClusterIPs, which are never given to Services; needed only where the API server has no ServiceCIDRs (Kubernetes before 1.33)")
	c.Flags().StringSliceVar(&podCIDRs, "pod-cidrs", nil, "ranges of Pods' addresses, which are never given to Services, in addition to spec.podCIDRs of the Nodes")
	c.Flags().IntVar(
		&options.ReservationsPerNamespace, "reservations-per-namespace", 64,
		"the most AddressReservations of a namespace that are in effect",
	)
	c.Flags().BoolVar(&options.ReleaseOutside, "release-outside-pools", false, "release addresses at once that no LoadBalancerPool covers any more; by default they stay in service until a pool covers them or the annotation berth.dev/release names them")
	c.Flags().StringSliceVar(
		&honored, "honor-annotations", nil,
		"load balancers whose annotations on Services count where Berth's own are missing, while a cluster changes over: "+
			strings.Join(dialect.Names(), ", "),
	)
	c.Flags().BoolVar(&provider, "cloud-provider", false, "run Kubernetes' service controller with Berth as its cloud provider, instead of Berth's own reconciler; serves only Services without spec.loadBalancerClass")
	c.Flags().BoolVar(&options.Fence, "fence-dead-nodes", false, "call the pods of dead nodes not ready as soon as two speakers, the controller and the node's Lease agree; see manifests/fence for what it needs")
	c.Flags().BoolVar(&options.FenceDryRun, "fence-dry-run", false, "with --fence-dead-nodes: only say what would be done")
	c.Flags().IntVar(&options.Workers, "workers", controller.DefaultWorkers, "how many Services are processed at the same time")
	c.Flags().StringVar(&identity, "identity", envOr("POD_NAME", hostname()), "name in the leader election (environment POD_NAME)")
	return c
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "berth"
	}
	return name
}

func runController(ctx context.Context, flags common, options controller.Options, by mode, identity string) error {
	logger := flags.logger()
	// The clients outlive the signal, since the lease is given back last.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	at, err := flags.listenOn(ctx)
	if err != nil {
		return err
	}
	defer at.close()
	held, rewound := &leaseHold{}, async.NewSignal()
	to, err := flags.connect(
		"controller",
		logger,
		func(next http.RoundTripper) http.RoundTripper { return fence{held, next} },
		rewound.Notify,
	)
	if err != nil {
		return err
	}
	registry := newRegistry()
	options.Kubernetes, options.Berth, options.Events = to.kubernetes, to.berth, to.events
	options.Logger, options.Metrics, options.Namespace = logger, registry, flags.namespace
	options.MetricsPerService = flags.perService
	registry.MustRegister(to.events.lost)
	c, err := controller.New(options)
	if err != nil {
		return err
	}
	leader, err := by.leader(c)
	if err != nil {
		return err
	}
	loops := liveness.New()
	group, life := errgroup.WithContext(loops.Context(life))
	group.Go(func() error { return c.Watch(life) })
	group.Go(func() error {
		select {
		case <-rewound:
			return errRewound
		case <-life.Done():
			return nil
		}
	})
	group.Go(func() error { to.events.run(life); return nil })
	group.Go(func() error { return flags.serve(life, at, logger, to.kubernetes, registry, loops, c.Synced) })
	group.Go(func() error {
		defer end()
		return (&leaderElection{
			mode:       by,
			identity:   identity,
			namespace:  flags.namespace,
			kubernetes: to.kubernetes,
			held:       held,
			leader:     leader,
			log:        logger,
		}).run(ctx, life)
	})
	return group.Wait()
}

var errNothingToFence = errors.New("--fence-dry-run: it says what --fence-dead-nodes would do; set that, too")

// errRewound ends a controller that remembers what the API server has forgotten.
var errRewound = errors.New("the storage of the API server was restored to an older state; ending, so that a restart reads all of it")

var errLostLease = errors.New("lost the lease; ending, so that a restart begins with a clean state")

// leaderElection leads while this instance holds the Lease.
type leaderElection struct {
	mode       mode
	identity   string // this instance's, among those that compete
	namespace  string // of the Lease
	kubernetes kubernetes.Interface
	held       *leaseHold
	leader     leader
	log        *slog.Logger
}

// run waits for the lease, leads while it is held, and gives it back only after the work has
// ended. ctx ends on the signal, life when the program cannot continue.
func (l *leaderElection) run(ctx, life context.Context) error {
	work, stopWork := context.WithCancel(life)
	defer stopWork()
	election, giveBack := context.WithCancel(life)
	defer giveBack()
	result := make(chan error, 1)
	elector, err := l.elector(work, stopWork, func() {
		result <- l.leader.Lead(work)
		giveBack()
	})
	if err != nil {
		return fmt.Errorf("leader election: %w", err)
	}
	defer context.AfterFunc(ctx, func() {
		stopWork()
		if !elector.IsLeader() {
			giveBack()
		}
	})()
	elector.Run(election)
	select {
	case err := <-result:
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	default:
	}
	if ctx.Err() == nil {
		return errLostLease
	}
	return nil
}

// elector competes for the lease. It calls lead when it has it, and stopWork when it lost it, or
// another instance has it.
func (l *leaderElection) elector(work context.Context, stopWork, lead func()) (*leaderelection.LeaderElector, error) {
	var leading atomic.Bool
	return leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: vigilantLock{
			Interface: &resourcelock.LeaseLock{
				LeaseMeta:  metav1.ObjectMeta{Namespace: l.namespace, Name: leaseName},
				Client:     l.kubernetes.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: l.mode.holder(l.identity)},
			},
			held: l.held,
			taken: func(holder string) {
				if leading.Load() && work.Err() == nil {
					l.log.Warn("another leads; stopping", "leader", holder)
					stopWork()
				}
			},
		},
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		ReleaseOnCancel: true,
		Name:            leaseName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(lost context.Context) {
				leading.Store(true)
				stop := context.AfterFunc(lost, stopWork)
				defer stop()
				lead()
			},
			OnStoppedLeading: func() {},
			OnNewLeader:      func(holder string) { l.mode.logLeader(l.log, holder, l.identity) },
		},
	})
}
