//go:build linux

package hollow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// away is how long a node or a router is.
const away = time.Minute

// routed measures Services announced by BGP to two routers, real GoBGPs.
func (r *run) routed(ctx context.Context) error {
	first, second := &router{address: serverAddress}, &router{address: secondRouter}
	defer first.stop()
	defer second.stop()
	if err := errors.Join(first.start(ctx, r.nodes), second.start(ctx, r.nodes)); err != nil {
		return err
	}
	r.say("making %d Services by BGP", r.Routed)
	if err := r.makeServices(ctx, byRoutes, 0, r.Routed); err != nil {
		return err
	}
	if err := r.awaitSessions(ctx, first, second); err != nil {
		return err
	}
	suffix := fmt.Sprintf("%dn_%dr", len(r.nodes), r.Routed)
	one := func(ctx context.Context) error {
		return r.absence(ctx, "one_router_away", suffix, func(context.Context) error { first.stop(); return nil },
			func(ctx context.Context) error {
				return errors.Join(first.start(ctx, r.nodes), r.awaitSessions(ctx, first, second))
			})
	}
	all := func(ctx context.Context) error {
		return r.absence(ctx, "all_routers_away", suffix, func(context.Context) error {
			first.stop()
			second.stop()
			return nil
		}, func(ctx context.Context) error {
			return errors.Join(
				first.start(ctx, r.nodes), second.start(ctx, r.nodes), r.awaitSessions(ctx, first, second),
			)
		})
	}
	last := r.nodes[len(r.nodes)-1]
	node := func(ctx context.Context) error {
		return r.absence(ctx, "node_away", suffix, func(ctx context.Context) error {
			return errors.Join(r.kill(ctx, last), r.setReady(ctx, last, corev1.ConditionUnknown))
		}, func(ctx context.Context) error {
			return errors.Join(r.revive(ctx, last), r.awaitSpeaker(ctx, last))
		})
	}
	speaker := func(ctx context.Context) error {
		return r.absence(ctx, "speaker_away", suffix, func(context.Context) error {
			return last.end(unix.SIGTERM, last.speaker)
		}, func(ctx context.Context) error {
			return errors.Join(r.startSpeaker(ctx, last), r.awaitSpeaker(ctx, last))
		})
	}
	return errors.Join(
		r.part(ctx, "one router away", 0, one), r.part(ctx, "node away", 0, node),
		r.part(ctx, "speaker away", 0, speaker), r.part(ctx, "all routers away", 0, all),
	)
}

// absence measures the writes of Services' statuses while something is away for a minute and after
// it came back, and how soon new Services have addresses in the meantime.
func (r *run) absence(ctx context.Context, name, suffix string, leave, back func(context.Context) error) error {
	if err := wait(ctx, r.Quiet); err != nil {
		return err
	}
	const newcomers = 20
	var slowest time.Duration
	more, _, err := r.count(ctx, func(ctx context.Context) error {
		if err := leave(ctx); err != nil {
			return err
		}
		begun := time.Now()
		for i := range newcomers {
			took, err := r.addressWithin(ctx, fmt.Sprintf("%s-9%s-%02d", byRoutes, dashed(name), i), byRoutes)
			if err != nil {
				return err
			}
			slowest = max(slowest, took)
			if err := wait(ctx, time.Until(begun.Add(time.Duration(i+1)*away/newcomers))); err != nil {
				return err
			}
		}
		if err := back(ctx); err != nil {
			return err
		}
		return wait(ctx, 2*r.Quiet)
	})
	if err != nil {
		return err
	}
	// The first writes of new Services are their own: an address, and that it is announced.
	r.Figure("hollow_"+name+"_service_writes_"+suffix, more.writes("services", "status"), "writes")
	r.Figure("hollow_"+name+"_of_newcomers_"+suffix, newcomers, "Services")
	r.Figure("hollow_"+name+"_newcomer_slowest_"+suffix, slowest.Seconds(), "s")
	r.say("%s: %s", name, more)
	return nil
}

// dashed makes a name of a figure part of the name of an object.
func dashed(name string) string {
	out := []byte(name)
	for i, b := range out {
		if b == '_' {
			out[i] = '-'
		}
	}
	return string(out)
}

// awaitSessions waits until each router has a session with each node.
func (r *run) awaitSessions(ctx context.Context, routers ...*router) error {
	return r.eventually(ctx, func(ctx context.Context) error {
		for _, router := range routers {
			up, err := router.sessions(ctx)
			if err != nil {
				return err
			}
			if up < len(r.nodes) {
				return fmt.Errorf("router %s has sessions with %d of %d nodes", router.address, up, len(r.nodes))
			}
		}
		return nil
	})
}
