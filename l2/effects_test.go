package l2

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/berth-lb/berth/l2/election"
)

// answerCalls records the calls of Answers.
type answerCalls struct {
	mu    sync.Mutex
	calls []string // guarded by mu
}

func (c *answerCalls) hook(config *Config, _ *fakeSystem) {
	config.Answers = func(a netip.Addr, on bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.calls = append(c.calls, fmt.Sprintf("%s %v", a, on))
	}
}

func (c *answerCalls) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := c.calls
	c.calls = nil
	return calls
}

func TestConfigAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, c := &ether{}, &answerCalls{}
		e.host(printer, with("192.0.2.201"))
		a := e.node(t, "a", 1, c.hook)
		pass(2 * time.Second)
		a.sync(by("a"), svc, "192.0.2.201")
		pass(150 * time.Millisecond)
		expectEqual(t, "calls while it is probed", c.take(), nil)
		pass(time.Second)
		expectEqual(t, "calls for what is free", c.take(), []string{svc + " true"})
		a.Sync(svc4, Desired{Announced: true, Candidates: []string{"a"}, Rank: "other"})
		pass(time.Second)
		expectEqual(t, "calls for another rank", c.take(), nil)
		a.system.set(func(f *fakeSystem) { f.link.Up = false })
		pass(100 * time.Millisecond)
		expectEqual(t, "calls when the link is gone", c.take(), []string{svc + " false"})
		a.system.set(func(f *fakeSystem) { f.link.Up = true })
		pass(3 * time.Second)
		expectEqual(t, "calls when it is back", c.take(), []string{svc + " true"})
		a.Sync(svc4, Desired{})
		pass(time.Millisecond)
		expectEqual(t, "calls when it is removed", c.take(), []string{svc + " false"})
	})
}

// An address in conflict counts as not answered for until a minute after the conflict.
func TestConfigAnswersInConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, c := &ether{}, &answerCalls{}
		h := e.host(printer, with())
		a := e.node(t, "a", 1, c.hook)
		a.Sync(svc4, by("a"))
		pass(2 * time.Second)
		expectEqual(t, "told", c.take(), []string{svc + " true"})
		for range 3 {
			h.says(svc)
			pass(40 * time.Second)
		}
		expectEqual(t, "calls for a conflict", c.take(), []string{svc + " false"})
		expectEqual(t, "answered all the same by", e.whoHas(t, svc), []string{a.mac})
		pass(35 * time.Second)
		expectEqual(t, "calls a minute later", c.take(), []string{svc + " true"})
	})
}

// The end is reported unless the speaker is Holding.
func TestConfigAnswersAtEnd(t *testing.T) {
	for _, state := range []State{Ready, Holding} {
		synctest.Test(t, func(t *testing.T) {
			e, c := &ether{}, &answerCalls{}
			a := e.node(t, "a", 1, c.hook)
			a.Sync(svc4, by("a"))
			pass(2 * time.Second)
			c.take()
			a.SetState(state)
			pass(50 * time.Millisecond)
			a.kill()
			pass(50 * time.Millisecond)
			expectEqual(t, "calls at the end while "+state.String(), c.take(), map[State][]string{Ready: {svc +
				" false"}}[state])
		})
	}
}

// Prometheus sees an increase only of series that are there before.
func TestCountersAreThereFromTheStart(t *testing.T) {
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	counts := m.of("eth0")
	vacancies, moves := testutil.CollectAndCount(m.vacancy), testutil.CollectAndCount(m.moves)
	counts.vacant(time.Second, election.PeerSilent)
	counts.moved("gained", election.PeerSilent)
	if v, n := testutil.CollectAndCount(m.vacancy), testutil.CollectAndCount(m.moves); v != vacancies || n != moves {
		t.Errorf("the first failover made %d series of vacancies of %d, and %d of moves of %d", v, vacancies, n, moves)
	}
	m.forget("eth0")
	if n := testutil.CollectAndCount(m.vacancy) + testutil.CollectAndCount(m.moves); n != 0 {
		t.Errorf("an interface that is gone leaves %d series", n)
	}
}
