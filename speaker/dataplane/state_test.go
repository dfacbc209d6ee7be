package dataplane

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/plan"
)

// What is remembered of a Service ends when kube-proxy forwards for it, or when it is gone.
func TestDriver_Backends(t *testing.T) {
	d := &Driver{log: slog.New(slog.DiscardHandler), state: newForwardingState()}
	service := plan.Service{Name: "d/web"}
	group := plan.Group{ID: "d/web", Services: []plan.Service{service}}
	read := func(string) []plan.Backend {
		return []plan.Backend{{Address: netip.MustParseAddrPort("10.0.1.1:8080"), Terminates: true}}
	}
	limit := func([]netip.Addr) time.Duration { return time.Hour }
	for _, step := range []struct {
		name       string
		scheduler  string
		forget     bool
		backends   int
		again      bool
		remembered int
	}{
		{
			name:       "Berth forwards",
			scheduler:  "rr",
			backends:   1,
			again:      true,
			remembered: 1,
		},
		{
			name: "kube-proxy forwards",
		},
		{
			name:       "Berth forwards again",
			scheduler:  "rr",
			backends:   1,
			again:      true,
			remembered: 1,
		},
		{
			name:       "the Service is gone",
			scheduler:  "rr",
			forget:     true,
			backends:   1,
			again:      true,
			remembered: 0,
		},
	} {
		backends, again := d.Backends(
			group,
			[]plan.ClassifiedService{{Service: service, IPVSScheduler: step.scheduler}},
			read,
			limit,
		)
		if step.forget {
			d.ForgetService("d/web")
		}
		if len(backends["d/web"]) != step.backends || again > 0 != step.again ||
			len(d.state.drains.services) != step.remembered {
			t.Errorf(
				"%s: backends %v, reviewed again after %s, remembered %v",
				step.name,
				backends,
				again,
				d.state.drains.services,
			)
		}
	}
}

func TestSoonest(t *testing.T) {
	for _, c := range []struct{ a, b, want time.Duration }{{}, {
		b:    2,
		want: 2,
	}, {
		a:    1,
		want: 1,
	}, {
		a:    1,
		b:    2,
		want: 1,
	}, {
		a:    2,
		b:    1,
		want: 1,
	}} {
		if got := soonest(c.a, c.b); got != c.want {
			t.Errorf("soonest of %s and %s is %s", c.a, c.b, got)
		}
	}
}

// Until the kernel was read a group is not ready, and nothing is wrong with it alone.
func TestDriver_Sync(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	d, err := New(Config{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	front := ipvs.Frontend{Address: netip.MustParseAddr("192.0.2.1"), Port: 80, Protocol: ipvs.TCP}
	group := plan.Group{
		ID: "d/web",
		Services: []plan.Service{
			{Name: "d/web", Addresses: []netip.Addr{front.Address}, Ports: []plan.Port{{Protocol: ipvs.TCP, Port: 80}}},
		},
	}
	desired := plan.Forwarding{Table: ipvs.Table{front: {Settings: ipvs.Settings{Scheduler: "rr"}}}}
	if got := d.Sync(group, desired); got != (Status{}) {
		t.Errorf("before the kernel was read: %+v", got)
	}
	if got := d.Sync(group, plan.Forwarding{}); !got.Readiness.Shown || got.Again <= 0 || got.Again > kubeProxyGraceTime {
		t.Errorf("when kube-proxy takes over: %+v", got)
	}
	d.Forget("d/web")
	if len(d.state.grace)+len(d.state.ready) > 0 {
		t.Errorf("something is left: %+v", d.state)
	}
}

func TestNone(t *testing.T) {
	n := NewNone(slog.New(slog.DiscardHandler), nil)
	if got := n.Sync(plan.Group{ID: "d/web"}, plan.Forwarding{}); !got.Readiness.Shown || got.Err != nil ||
		got.Again != 0 {
		t.Errorf("something is withheld on a node without --ipvs: %+v", got)
	}
	if _, asked := n.Report(); asked {
		t.Error("a node without --ipvs reports what it forwards")
	}
}

func TestNone_await(t *testing.T) {
	failed := errors.New("no informer")
	for _, c := range []struct {
		name     string
		released func(context.Context, []netip.Addr) error
		want     error
		after    time.Duration
	}{
		{
			name:     "kube-proxy is given time once it is to forward",
			released: func(context.Context, []netip.Addr) error { return nil },
			after:    kubeProxyGraceTime,
		},
		{
			name:     "kube-proxy never takes over",
			released: func(ctx context.Context, _ []netip.Addr) error { <-ctx.Done(); return ctx.Err() },
			after:    releasedAtMost,
		},
		{
			name:     "it cannot be known",
			released: func(context.Context, []netip.Addr) error { return failed },
			want:     failed,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				err := NewNone(slog.New(slog.DiscardHandler), c.released).await(t.Context(), nil)
				if !errors.Is(err, c.want) || time.Since(begun) != c.after {
					t.Errorf("after %s: %v, want %v after %s", time.Since(begun), err, c.want, c.after)
				}
			})
		})
	}
}
