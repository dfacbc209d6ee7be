package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller"
)

// Times of the leader election. A standby takes over leaseDuration after it first saw
// the leader's last renewal, and looks every one to 2.2 retryPeriods: 7.5 to 10 s
// after a crash; at once when the leader ends in good order. A leader writes nothing
// that it cannot have sent within renewDeadline of a renewal.
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
	var serviceCIDRs, podCIDRs []string
	c := &cobra.Command{
		Use:   "controller",
		Short: "Give addresses to Services of type LoadBalancer",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if provider && !options.Classless {
				return errNothingToServe
			}
			var err error
			if options.ServiceCIDRs, err = parsePrefixes(serviceCIDRs); err != nil {
				return fmt.Errorf("--service-cidrs: %w", err)
			}
			if options.PodCIDRs, err = parsePrefixes(podCIDRs); err != nil {
				return fmt.Errorf("--pod-cidrs: %w", err)
			}
			return runController(c.Context(), flags, options, way(provider), identity)
		},
	}
	flags.register(c.Flags())
	c.Flags().BoolVar(&options.Classless, "serve-classless", true, "serve Services without spec.loadBalancerClass too, unless another implementation gave them their addresses")
	c.Flags().StringSliceVar(&options.Classes, "classes", []string{v1alpha1.LoadBalancerClass}, "values of spec.loadBalancerClass that are served, separated by commas")
	c.Flags().DurationVar(&options.Rest, "rest", time.Minute, "how long a freed address rests before another Service gets it, so that nobody announces it still; 0: not at all")
	c.Flags().StringSliceVar(&serviceCIDRs, "service-cidrs", nil, "ranges of ClusterIPs, which are never given; needed only where the API server has no ServiceCIDRs (Kubernetes before 1.33)")
	c.Flags().StringSliceVar(&podCIDRs, "pod-cidrs", nil, "ranges of Pods' addresses, which are never given, beside spec.podCIDRs of the Nodes")
	c.Flags().IntVar(&options.ReservationsPerNamespace, "reservations-per-namespace", 64, "AddressReservations of a namespace that are in effect at most")
	c.Flags().BoolVar(&options.ReleaseOutside, "release-outside-pools", false, "take addresses away at once that are in no LoadBalancerPool any more; otherwise they stay in service until a pool covers them or the annotation berth.dev/release names them")
	c.Flags().BoolVar(&provider, "cloud-provider", false, "run Kubernetes' service controller with Berth as its cloud provider, instead of Berth's own reconciler; serves only Services without spec.loadBalancerClass")
	c.Flags().IntVar(&options.Workers, "workers", 4, "Services looked at at once")
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

func runController(ctx context.Context, flags common, options controller.Options, by way, identity string) error {
	logger := flags.logger()
	// The clients outlive the signal: the lease is given back last.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	held := &tenure{}
	to, err := flags.connect(life, "controller", logger, func(next http.RoundTripper) http.RoundTripper { return fence{held, next} })
	if err != nil {
		return err
	}
	registry := newRegistry()
	options.Kubernetes, options.Berth, options.Events = to.kubernetes, to.berth, to.events
	options.Logger, options.Metrics, options.Namespace = logger, registry, flags.namespace
	c, err := controller.New(options)
	if err != nil {
		return err
	}
	group, life := errgroup.WithContext(life)
	group.Go(func() error { return c.Watch(life) })
	group.Go(func() error { return flags.serve(life, registry, c.Synced) })
	group.Go(func() error {
		defer end()
		return lead(ctx, life, by, by.of(c), held, to.kubernetes, flags.namespace, identity, logger)
	})
	return group.Wait()
}

var errLostLease = errors.New("lost the lease; ending, so that the next start begins afresh")

// lead waits for the lease, leads while it is held, and gives it back only when the
// work has ended. ctx ends on the signal; life when the program cannot go on.
func lead(ctx, life context.Context, by way, c leader, held *tenure, set kubernetes.Interface, namespace, identity string, logger *slog.Logger) error {
	work, stopWork := context.WithCancel(life)
	defer stopWork()
	election, giveBack := context.WithCancel(life)
	defer giveBack()
	result := make(chan error, 1)
	var leading atomic.Bool
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: vigilantLock{
			Interface: &resourcelock.LeaseLock{
				LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: leaseName},
				Client:     set.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: by.holder(identity)},
			},
			tenure: held,
			taken: func(holder string) {
				if leading.Load() && work.Err() == nil {
					logger.Warn("another leads; stopping", "leader", holder)
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
				result <- c.Lead(work)
				giveBack()
			},
			OnStoppedLeading: func() {},
			OnNewLeader:      func(holder string) { by.meet(logger, holder, identity) },
		},
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
