//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// restarts is how many times all speakers are replaced.
const restarts = 3

// leave counts the new connections that fail, and the open ones that break, while the owner leaves
// on purpose and returns. The client asks again who has the address before each new connection.
func (b *bench) leave(ctx context.Context, st *steady) error {
	t := toll{name: "planned_leave"}
	for range b.rounds {
		if _, err := b.settle(ctx, st); err != nil {
			return fmt.Errorf("planned leave: %w", err)
		}
		if err := t.during(ctx, b, lab.Client, st.v4, func() error { return b.leaveAndReturn(ctx, st) }); err != nil {
			return fmt.Errorf("planned leave: %w", err)
		}
	}
	t.tell(b.report)
	return nil
}

// restart does the same while all speakers are replaced, one after the other.
func (b *bench) restart(ctx context.Context, st *steady) error {
	t := toll{name: "rolling_restart"}
	for range min(b.rounds, restarts) {
		if _, err := b.settle(ctx, st); err != nil {
			return fmt.Errorf("rolling restart: %w", err)
		}
		if err := t.during(ctx, b, lab.Client, st.v4, func() error { return b.rollOut(ctx, st) }); err != nil {
			return fmt.Errorf("rolling restart: %w", err)
		}
	}
	t.tell(b.report)
	return nil
}

// leaveAndReturn makes the owner leave and return, with a pause after each.
func (b *bench) leaveAndReturn(ctx context.Context, st *steady) error {
	owner, err := st.seen.AwaitOwner(ctx, patience, time.Now(), st.v4, st.v6)
	if err != nil {
		return err
	}
	if err := b.exclude(ctx, owner.Host); err != nil {
		return err
	}
	err = stage.Eventually(ctx, patience, func(ctx context.Context) error {
		next, err := st.seen.AwaitOwner(ctx, patience, time.Now(), st.v4, st.v6)
		if err == nil && next.Host == owner.Host {
			err = fmt.Errorf("%s is to leave and still answers for %s", owner.Host, st.v4)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := pause(ctx, rest); err != nil {
		return err
	}
	if err := b.include(ctx, owner.Host); err != nil {
		return err
	}
	_, err = b.settle(ctx, st)
	return err
}

// exclude makes a node announce nothing, and waits until it leaves.
func (b *bench) exclude(ctx context.Context, node string) error {
	if _, err := b.Kubectl(ctx, "", "label", "node", node, v1alpha1.ExcludeLabel+"="); err != nil {
		return err
	}
	return b.awaitState(ctx, node, v1alpha1.SpeakerLeaving)
}

// include lets it announce again.
func (b *bench) include(ctx context.Context, node string) error {
	if _, err := b.Kubectl(ctx, "", "label", "node", node, v1alpha1.ExcludeLabel+"-"); err != nil {
		return err
	}
	return b.awaitState(ctx, node, v1alpha1.SpeakerAnnouncing)
}

func (b *bench) awaitState(ctx context.Context, node string, want v1alpha1.SpeakerState) error {
	return stage.Eventually(ctx, patience, func(ctx context.Context) error {
		speaker, err := b.Berth.Speakers.Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if state, message := speaker.Status.State(); state != want {
			return fmt.Errorf("speaker of %s is %s (%s), want %s", node, state, message, want)
		}
		return nil
	})
}

// toll counts what happened to connections while addresses moved on purpose.
type toll struct {
	name                                       string
	asked, failed, broken, open, openAndBroken int
	gaps                                       []time.Duration
}

// during adds what happens to a client's connections while do runs: new ones that it keeps making,
// and some that it made before and keeps using.
func (t *toll) during(ctx context.Context, b *bench, client string, address netip.Addr, do func() error) error {
	open, err := b.openLines(ctx, client, address)
	if err != nil {
		return err
	}
	talking, hangUp := context.WithCancel(ctx)
	defer hangUp()
	alive := make(chan int, 1)
	go func() { alive <- open.talk(talking) }() // ends with talking
	probe := b.StartProbe(ctx, client, address, every, timeout, client == lab.Client)
	err = do()
	gap := probe.Stop()
	hangUp()
	t.open += len(open)
	t.openAndBroken += len(open) - <-alive
	if err != nil {
		return err
	}
	for _, e := range gap.Errors {
		fmt.Fprintf(os.Stderr, "# %s: %s\n", t.name, e)
	}
	t.asked, t.failed, t.broken = t.asked+gap.Asked, t.failed+gap.Failed-gap.Broken, t.broken+gap.Broken
	t.gaps = append(t.gaps, gap.Longest)
	return nil
}

func (t *toll) tell(r *report) {
	r.add(t.name+"_new_connections", float64(t.asked), "connections")
	r.add(t.name+"_new_connections_failed", float64(t.failed), "connections")
	// These were established, and reset before the answer arrived.
	r.add(t.name+"_new_connections_broken", float64(t.broken), "connections")
	r.add(t.name+"_established", float64(t.open), "connections")
	r.add(t.name+"_established_broken", float64(t.openAndBroken), "connections")
	r.times(t.name+"_longest_without_answer", t.gaps)
}

// lines are open connections of the client to port 7000.
type lines []net.Conn

// established is the number of connections that are open when addresses move.
const established = 20

// openLines opens connections, and waits for an answer on each.
func (b *bench) openLines(ctx context.Context, client string, address netip.Addr) (lines, error) {
	var all lines
	for range established {
		conn, err := b.Dial(ctx, client, "tcp", netip.AddrPortFrom(address, 7000).String())
		if err != nil {
			all.close()
			return nil, fmt.Errorf("open a connection that lasts: %w", err)
		}
		all = append(all, conn)
	}
	if n := len(all.alive()); n != established {
		all.close()
		return nil, fmt.Errorf("%d of %d connections to %s answer before anything moved", n, established, address)
	}
	return all, nil
}

// talk uses the connections ten times a second until ctx ends, then closes them, and returns how
// many answered each time.
func (l lines) talk(ctx context.Context) int {
	defer l.close()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	left := l
	for {
		left = left.alive()
		select {
		case <-ctx.Done():
			return len(left)
		case <-tick.C:
		}
	}
}

// alive returns those that answer within the timeout of a client.
func (l lines) alive() lines {
	var alive lines
	for _, conn := range l {
		if conn.SetDeadline(time.Now().Add(timeout)) != nil {
			continue
		}
		if _, err := conn.Write([]byte("hello\n")); err != nil {
			continue
		}
		if _, err := bufio.NewReader(conn).ReadBytes('\n'); err == nil {
			alive = append(alive, conn)
		}
	}
	return alive
}

func (l lines) close() {
	for _, conn := range l {
		conn.Close()
	}
}
