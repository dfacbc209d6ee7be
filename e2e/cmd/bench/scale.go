//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// scale measures the controller alone with very many Services. It runs beside the API server, with
// the rights of its ServiceAccount. Nothing announces and nothing forwards, so that only the
// controller's work is measured.
type scale struct {
	*bench
	count   int    // of Services
	program string // berth; empty: the one that the lab runs
	started int    // controllers so far
	rushed  time.Duration
	rival   *rival
	kubecfg string // of the controller
}

// runScale measures in a lab of its own.
func runScale(ctx context.Context, file, program string, count int) (err error) {
	l, err := lab.Up(ctx, lab.Options{Name: "scale", Nodes: 1, Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down(context.WithoutCancel(ctx))) }()
	stg, err := stage.New(l, false)
	if err != nil {
		return err
	}
	s := &scale{bench: &bench{Stage: stg, report: newReport(os.Stdout)}, count: count, program: program}
	if err := s.measure(ctx); err != nil {
		if ctx.Err() == nil {
			s.explain(os.Stderr)
		}
		return err
	}
	return s.report.write(file)
}

func (s *scale) measure(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	// The rival's run is repeated at the end, because the machine and the API server have changed
	// since the first one.
	var bare [2]time.Duration
	var patched time.Duration
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{
			"bare creation and patches",
			func(ctx context.Context) (err error) { bare[0], err = s.bareRush(ctx, "before"); return err },
		},
		{"bare patches", func(ctx context.Context) (err error) { patched, err = s.barePatches(ctx); return err }},
		{"emptying", s.empty},
		{"a backlog", func(ctx context.Context) error { return s.backlog(ctx, patched) }},
		{"a restart", s.restart},
		{"a deletion and a takeover", s.deletionAndTakeover},
		{"clearing", s.clear},
		{"creation and allocation", s.rush},
		{"clearing", s.clear},
		{
			"bare creation and patches",
			func(ctx context.Context) (err error) { bare[1], err = s.bareRush(ctx, "after"); return err },
		},
	} {
		fmt.Fprintf(os.Stderr, "# %s\n", step.name)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	s.add("created_and_allocated_to_bare", 2*s.rushed.Seconds()/(bare[0]+bare[1]).Seconds(), "times_as_long")
	return nil
}

// prepare installs the part of Berth that the controller needs, a pool, an announcement, and the
// report of a pretended speaker.
func (s *scale) prepare(ctx context.Context) error {
	file, err := stage.Manifest()
	if err != nil {
		return err
	}
	dir := filepath.Dir(file)
	for _, args := range [][]string{
		{"apply", "-f", dir + "/namespace.yaml", "-f", dir + "/crds"},
		{"apply", "-n", stage.Namespace, "-f", dir + "/rbac-controller.yaml"},
		{"wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"},
		{"create", "namespace", namespace},
		// The rival uses the same account, which may patch, too, so that the API server treats both
		// alike.
		{"create", "clusterrole", "bench", "--verb=patch", "--resource=services/status"},
		{
			"create", "clusterrolebinding", "bench", "--clusterrole=bench",
			"--serviceaccount=" + stage.Namespace + ":berth-controller",
		},
	} {
		if _, err := s.Kubectl(ctx, "", args...); err != nil {
			return err
		}
	}
	err = s.Apply(ctx, `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: many}
spec: {addresses: [198.18.0.0/15], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: many}
spec: {poolNames: [many], nodeSelector: {}, serviceSelector: {}}
`)
	if err != nil {
		return err
	}
	if err := s.pretendSpeaker(ctx); err != nil {
		return err
	}
	// kube-proxy would use processor time for rules that are not needed.
	if err := s.Pause(ctx, "kube-proxy@"+s.Nodes()[0]); err != nil {
		return err
	}
	if s.rival, err = s.newRival(ctx); err != nil {
		return err
	}
	s.kubecfg, err = s.writeKubeconfig(s.rival.token)
	return err
}

// pretendSpeaker reports as a speaker of the node that announces.
func (s *scale) pretendSpeaker(ctx context.Context) error {
	made, err := s.Berth.Speakers.Create(ctx, &v1alpha1.Speaker{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Speaker"},
		ObjectMeta: metav1.ObjectMeta{Name: s.Nodes()[0]},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create Speaker: %w", err)
	}
	made.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Speaker"}
	made.Status.Segments = []v1alpha1.SegmentReport{{Interface: "eth0", State: v1alpha1.SegmentAnnouncing}}
	meta.SetStatusCondition(&made.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: string(v1alpha1.SpeakerAnnouncing),
	})
	if _, err := s.Berth.Speakers.UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write the status of Speaker %s: %w", made.Name, err)
	}
	return nil
}

// bareRush makes the rival do the minimum that a controller must do: patch each Service once, as
// soon as it exists.
func (s *scale) bareRush(ctx context.Context, when string) (time.Duration, error) {
	reportUse, err := s.counting(ctx)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	err = s.withTally(ctx, func(ctx context.Context, t *tally) error {
		group, ctx := errgroup.WithContext(ctx)
		created := make(chan string, s.count)
		group.Go(func() error { defer close(created); return s.create(ctx, created) })
		group.Go(func() error { return s.rival.patchAll(ctx, created, bareStatus(foreign(1).Addr())) })
		group.Go(func() error { return t.awaitAddresses(ctx, s.count, foreign(1)) })
		return group.Wait()
	})
	took := time.Since(begun)
	s.add("bare_created_and_patched_"+when, took.Seconds(), "s")
	return took, errors.Join(err, reportUse("bare_created_and_patched_"+when))
}

// barePatches makes the rival patch each existing Service once more.
func (s *scale) barePatches(ctx context.Context) (time.Duration, error) {
	names := s.names()
	reportUse, err := s.counting(ctx)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	err = s.withTally(ctx, func(ctx context.Context, t *tally) error {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return s.rival.patchAll(ctx, names, bareStatus(foreign(2).Addr())) })
		group.Go(func() error { return t.awaitAddresses(ctx, s.count, foreign(2)) })
		return group.Wait()
	})
	took := time.Since(begun)
	s.add("bare_patched", took.Seconds(), "s")
	return took, errors.Join(err, reportUse("bare_patched"))
}

// names returns those of all Services.
func (s *scale) names() <-chan string {
	names := make(chan string, s.count)
	for i := range s.count {
		names <- serviceName(i)
	}
	close(names)
	return names
}

// empty takes from all Services what the rival wrote: Berth would leave them to it.
func (s *scale) empty(ctx context.Context) error {
	return s.rival.patchAll(ctx, s.names(), []byte(emptyStatus))
}

// backlog starts a controller that finds all Services waiting.
func (s *scale) backlog(ctx context.Context, bare time.Duration) error {
	return s.withTally(ctx, func(ctx context.Context, t *tally) error {
		reportUse, err := s.counting(ctx)
		if err != nil {
			return err
		}
		c, err := s.startController(ctx, "backlog")
		if err != nil {
			return err
		}
		defer c.stop()
		if err := c.awaitLead(ctx); err != nil {
			return err
		}
		begun := time.Now()
		if err := t.awaitAddresses(ctx, s.count, pooled()); err != nil {
			return err
		}
		took := time.Since(begun)
		if err := reportUse("backlog"); err != nil {
			return err
		}
		s.add("backlog_allocated", took.Seconds(), "s")
		s.add("backlog_allocated_to_bare_patches", took.Seconds()/bare.Seconds(), "times_as_long")
		return s.addWrites(ctx, "backlog_writes", c, 0)
	})
}

// restart starts another controller, which finds everything as it should be.
func (s *scale) restart(ctx context.Context) error {
	return s.withTally(ctx, func(ctx context.Context, t *tally) error {
		begun := time.Now()
		c, err := s.startController(ctx, "restart")
		if err != nil {
			return err
		}
		defer c.stop()
		if err := c.awaitLead(ctx); err != nil {
			return err
		}
		s.add("restart_until_leading", time.Since(begun).Seconds(), "s")
		markers, err := s.passMarkers(ctx, t)
		if err != nil {
			return err
		}
		s.add("restart_until_new_services_have_addresses", time.Since(begun).Seconds(), "s")
		s.add("restart_services_changed", float64(t.changed()-markers), "services")
		return s.addWrites(ctx, "restart_writes", c, markers)
	})
}

// deletionAndTakeover deletes one Service under a leader with a warm standby, and then kills the
// leader.
func (s *scale) deletionAndTakeover(ctx context.Context) error {
	leader, err := s.startController(ctx, "leader")
	if err != nil {
		return err
	}
	defer leader.stop()
	if err := leader.awaitLead(ctx); err != nil {
		return err
	}
	standby, err := s.startController(ctx, "standby")
	if err != nil {
		return err
	}
	defer standby.stop()
	if err := standby.awaitReady(ctx); err != nil {
		return err
	}
	err = s.withTally(ctx, func(ctx context.Context, t *tally) error {
		if _, err := s.passMarkers(ctx, t); err != nil { // the work of the start is done
			return err
		}
		before, err := leader.writes(ctx)
		if err != nil {
			return err
		}
		changed := t.changed()
		if err := s.Kubernetes.CoreV1().Services(namespace).Delete(ctx, serviceName(0), metav1.DeleteOptions{}); err != nil {
			return err
		}
		markers, err := s.passMarkers(ctx, t)
		if err != nil {
			return err
		}
		s.add("deletion_services_changed", float64(t.changed()-changed-markers), "services")
		return s.addWrites(ctx, "deletion_writes", leader, before+markers)
	})
	if err != nil {
		return err
	}
	return s.withTally(ctx, func(ctx context.Context, t *tally) error {
		begun := time.Now()
		leader.kill()
		markers, err := s.passMarkers(ctx, t)
		if err != nil {
			return err
		}
		s.add("takeover_until_new_services_have_addresses", time.Since(begun).Seconds(), "s")
		s.add("takeover_services_changed", float64(t.changed()-markers), "services")
		return s.addWrites(ctx, "takeover_writes", standby, markers)
	})
}

// rush creates the Services as fast as the API server accepts them, while a controller runs.
func (s *scale) rush(ctx context.Context) error {
	c, err := s.startController(ctx, "rush")
	if err != nil {
		return err
	}
	defer c.stop()
	if err := c.awaitLead(ctx); err != nil {
		return err
	}
	return s.withTally(ctx, func(ctx context.Context, t *tally) error {
		reportUse, err := s.counting(ctx)
		if err != nil {
			return err
		}
		begun := time.Now()
		var created time.Duration
		group, both := errgroup.WithContext(ctx)
		group.Go(func() error {
			err := s.create(both, make(chan string, s.count))
			created = time.Since(begun)
			return err
		})
		group.Go(func() error { return t.awaitAddresses(both, s.count, pooled()) })
		if err := group.Wait(); err != nil {
			return err
		}
		s.rushed = time.Since(begun)
		if err := reportUse("created_and_allocated"); err != nil {
			return err
		}
		own, err := processorTime(c.pid())
		if err != nil {
			return err
		}
		s.add("created_and_allocated_controller_cpu", own.Seconds(), "s")
		s.add("created", created.Seconds(), "s")
		s.add("created_and_allocated", s.rushed.Seconds(), "s")
		resident, err := residentMiB(c.pid())
		if err != nil {
			return err
		}
		s.add("controller_resident", resident, "MiB")
		return s.addWrites(ctx, "created_and_allocated_writes", c, 0)
	})
}

// counting begins to count the processor time of the API server and of etcd. The function that it
// returns reports it.
func (s *scale) counting(ctx context.Context) (report func(name string) error, err error) {
	u, err := beginUse(ctx, s.Lab)
	return func(name string) error {
		return u.reportStore(ctx, s.report, fmt.Sprintf("scale_%d_%s", s.count, name))
	}, err
}

// add reports a figure, named after the number of Services.
func (s *scale) add(name string, value float64, unit string) {
	s.report.add(fmt.Sprintf("scale_%d_%s", s.count, name), value, unit)
}

// addWrites reports the status writes of a controller, without those expected.
func (s *scale) addWrites(ctx context.Context, name string, c *process, expected int) error {
	writes, err := c.writes(ctx)
	if err != nil {
		return err
	}
	s.add(name, float64(writes-expected), "writes")
	return nil
}
