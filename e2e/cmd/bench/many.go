//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/e2e/stage"
)

const (
	many        = 500
	concurrency = 32
)

// many measures the allocation of many Services at once, and for comparison the minimum cost: as
// many bare status patches of Services that no controller serves.
func (b *bench) many(ctx context.Context) error {
	err := b.Apply(ctx, `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: many}
spec: {addresses: [198.18.0.0/20], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: RouteAnnouncement
metadata: {name: many}
spec: {poolNames: [many], neighborNames: [tor], nodeSelector: {}, serviceSelector: {}}
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: rack}
spec: {allocation: OnRequest, addresses: [172.30.0.200-172.30.0.250, "fd00:30::200-fd00:30::2ff"], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
`)
	if err != nil {
		return err
	}
	if _, err := b.Kubectl(
		ctx, "", "wait", "--for=condition=Ready", "loadbalancerpool/many", "--timeout=30s",
	); err != nil {
		return err
	}
	bare, err := b.barePatches(ctx)
	if err != nil {
		return err
	}
	whole, err := b.allocateMany(ctx)
	if err != nil {
		return err
	}
	b.report.add("allocations_per_second", many/whole.Seconds(), "1/s")
	b.report.add("bare_status_patches_per_second", many/bare.Seconds(), "1/s")
	// The first includes the creation of the Services.
	b.report.add("allocations_to_bare_patches", whole.Seconds()/bare.Seconds(), "times_as_long")
	return b.memory(ctx, fmt.Sprintf("%d_services", many))
}

// barePatches creates Services of a class that no controller serves, and returns the time that as
// many status patches take.
func (b *bench) barePatches(ctx context.Context) (time.Duration, error) {
	class := "berth.dev/nobody"
	services := b.Kubernetes.CoreV1().Services(namespace)
	name := func(i int) string { return fmt.Sprintf("bare-%d", i) }
	begun := time.Now()
	err := concurrently(ctx, func(ctx context.Context, i int) error {
		svc := b.bareService(name(i))
		svc.Spec.LoadBalancerClass = &class
		_, err := services.Create(ctx, svc, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return 0, err
	}
	b.report.add("bare_creations_per_second", many/time.Since(begun).Seconds(), "1/s")
	begun = time.Now()
	err = concurrently(ctx, func(ctx context.Context, i int) error {
		patch := fmt.Sprintf(`{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.1","ipMode":"VIP"}]},
			"conditions":[{"type":"berth.dev/Bench","status":"True","reason":"Bench","message":"number %d","lastTransitionTime":"2000-01-01T00:00:00Z"}]}}`, i)
		_, err := services.Patch(ctx, name(i), types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
		return err
	})
	took := time.Since(begun)
	if err != nil {
		return 0, err
	}
	return took, concurrently(ctx, func(ctx context.Context, i int) error {
		return services.Delete(ctx, name(i), metav1.DeleteOptions{})
	})
}

// allocateMany creates Services and returns the time until all have addresses.
func (b *bench) allocateMany(ctx context.Context) (time.Duration, error) {
	watch, err := b.watchStatuses(ctx)
	if err != nil {
		return 0, err
	}
	defer watch.stop()
	begun := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return concurrently(ctx, func(ctx context.Context, i int) error {
			svc := b.bareService(fmt.Sprintf("many-%d", i))
			_, err := b.Kubernetes.CoreV1().Services(namespace).Create(ctx, svc, metav1.CreateOptions{})
			return err
		})
	})
	group.Go(func() error {
		for i := range many {
			if _, err := watch.next(ctx); err != nil {
				return fmt.Errorf("%d of %d Services have addresses: %w", i, many, err)
			}
		}
		return nil
	})
	err = group.Wait()
	return time.Since(begun), err
}

// bareService has one port and the pods of everywhere.
func (b *bench) bareService(name string) *corev1.Service {
	svc := b.Expose(everywhere(), name)
	svc.Spec.Ports = svc.Spec.Ports[:1]
	return svc
}

func concurrently(ctx context.Context, do func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrency)
	for i := range many {
		group.Go(func() error { return do(ctx, i) })
	}
	return group.Wait()
}

// sampled is for how long memory is sampled. The median counts.
const sampled = 5 * time.Second

// memory reports the resident memory of controllers and speakers. Of each kind the largest counts;
// for controllers that is the leader.
func (b *bench) memory(ctx context.Context, when string) error {
	status, err := b.Status(ctx)
	if err != nil {
		return err
	}
	samples := map[string][]float64{}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for begun := time.Now(); time.Since(begun) < sampled; {
		most := map[string]float64{}
		for _, p := range status.Processes {
			container, _, _ := strings.Cut(p.Name, "@")
			if !strings.HasPrefix(p.Pod, stage.Namespace+"/") {
				continue
			}
			resident, err := residentMiB(p.PID)
			if err != nil {
				return err
			}
			most[container] = max(most[container], resident)
		}
		for container, m := range most {
			samples[container] = append(samples[container], m)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	for _, container := range []string{"controller", "speaker"} {
		b.report.add(fmt.Sprintf("%s_resident_%s", container, when), median(samples[container]), "MiB")
	}
	return nil
}

// residentMiB reads VmRSS of proc_pid_status(5).
func residentMiB(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("memory of a process: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			if err != nil {
				return 0, fmt.Errorf("memory of a process: %w", err)
			}
			return kib / 1024, nil
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", pid)
}
