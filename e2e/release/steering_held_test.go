//go:build release

package release

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/e2e/stage"
)

const (
	sayEvery = 200 * time.Millisecond // on each connection
	sayLate  = 30 * time.Second       // so long an answer may take until the connection counts as broken
)

// front is a Service as clients on a host see it, and how many of them hold connections to it.
type front struct {
	name     string
	host     string
	address  netip.Addr
	number   uint16 // of the port; 0: 7000
	tcp, udp int
	// control: its pool has no second chance, so that its connections break where others live.
	control bool
}

func (f front) port() string { return netip.AddrPortFrom(f.address, cmp.Or(f.number, 7000)).String() }

// conversation is a TCP connection, or a UDP flow, on which a line is sent and answered again and
// again, by the same Pod.
type conversation struct {
	front   front
	network string
	number  int
	conn    net.Conn
	answers *bufio.Reader
	pod     string
	node    string // of the Pod
	client  string // as the Pod sees it: with another port where two clients of a node's have one

	// Guarded by mu of held:
	answered time.Time // the last time
	err      error     // why it is broken
	counted  bool      // as broken
	ended    bool      // by the test
}

// held are the conversations of the clients of some fronts. They end with the test.
type held struct {
	stage  *stage.Stage
	fronts []front
	talks  sync.WaitGroup

	mu     sync.Mutex
	all    []*conversation // guarded by mu
	number int             // guarded by mu; the last one's
}

func hold(t *testing.T, s *stage.Stage, fronts ...front) *held {
	t.Helper()
	h := &held{stage: s, fronts: fronts}
	t.Cleanup(func() {
		h.end(func(*conversation) bool { return true })
		h.talks.Wait()
	})
	h.fill(t)
	return h
}

// fill opens conversations until each front has as many as it should have.
func (h *held) fill(t *testing.T) {
	t.Helper()
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(16)
	for _, f := range h.fronts {
		for network, want := range map[string]int{"tcp": f.tcp, "udp": f.udp} {
			for range want - h.count(f, network) {
				group.Go(func() error {
					return stage.Eventually(ctx, patience, func(ctx context.Context) error { return h.open(ctx, f, network) })
				})
			}
		}
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

func (h *held) count(f front, network string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.all {
		if c.front.name == f.name && c.network == network {
			n++
		}
	}
	return n
}

// open begins a conversation: with its first answer.
func (h *held) open(ctx context.Context, f front, network string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	h.mu.Lock()
	h.number++
	number := h.number
	h.mu.Unlock()
	conn, err := h.dial(ctx, f, network, number)
	if err != nil {
		return err
	}
	c := &conversation{front: f, network: network, number: number, conn: conn, answers: bufio.NewReader(conn)}
	deadline, _ := ctx.Deadline()
	answer, err := c.ask(deadline)
	if own, _, _ := net.SplitHostPort(conn.LocalAddr().String()); err == nil && answer.ClientAddress().String() != own {
		err = fmt.Errorf("the Pod sees %s, want the client's address %s", answer.Client, own)
	}
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	c.pod, c.node, c.client, c.answered = answer.Pod, answer.Node, answer.Client, time.Now()
	h.mu.Lock()
	h.all = append(h.all, c)
	h.mu.Unlock()
	h.talks.Go(func() { h.talk(c) })
	return nil
}

// dial connects from a port that nobody had before, and that newcomers do not get: nodes remember a
// client's port for some time after its end, UDP above all, and would know the conversation.
func (h *held) dial(ctx context.Context, f front, network string, number int) (conn net.Conn, err error) {
	const lowest, ports = 10000, 22000 // up to where the kernel's own choice begins
	own := lowest + number%ports
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{Port: own}}
	if network == "udp" {
		dialer.LocalAddr = &net.UDPAddr{Port: own}
	}
	err = h.stage.In(f.host, func() error {
		conn, err = dialer.DialContext(ctx, network, f.port())
		return err
	})
	return conn, err
}

// ask sends a line, and returns the answer to this one or, of UDP, to one before.
func (c *conversation) ask(deadline time.Time) (answer stage.Answer, err error) {
	if err := c.conn.SetDeadline(deadline); err != nil {
		return answer, err
	}
	if _, err := fmt.Fprintln(c.conn, c.number); err != nil {
		return answer, err
	}
	line, err := c.answers.ReadBytes('\n')
	if err != nil {
		return answer, err
	}
	return answer, json.Unmarshal(line, &answer)
}

// wrong says what is wrong with an answer.
func (c *conversation) wrong(a stage.Answer) error {
	switch {
	case a.Pod != c.pod:
		return fmt.Errorf("Pod %s on %s answers, and did %s", a.Pod, a.Node, c.pod)
	case a.Client != c.client:
		return fmt.Errorf("the answer is for %s, and was for %s", a.Client, c.client)
	}
	return nil
}

func (h *held) talk(c *conversation) {
	defer c.conn.Close()
	again := time.NewTicker(sayEvery)
	defer again.Stop()
	late := sayLate
	if c.network == "udp" {
		late = sayEvery // a datagram may be lost; the next one is not to wait
	}
	for {
		<-again.C
		answer, err := c.ask(time.Now().Add(late))
		if err == nil {
			err = c.wrong(answer)
		} else if c.network == "udp" {
			err = lost{err}
		}
		if !h.note(c, err) {
			return
		}
	}
}

// lost is a datagram without an answer.
type lost struct{ error }

// note notes an answer, or what happened instead. It returns whether the conversation goes on.
func (h *held) note(c *conversation, err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	var one lost
	switch {
	case c.ended:
		return false
	case err == nil:
		c.answered = time.Now()
	case !errors.As(err, &one) || time.Since(c.answered) > sayLate:
		c.err = fmt.Errorf("%s %d to %s by %s, last answered at %s, broken at %s: %w",
			c.network, c.number, c.node, c.front.name, c.answered.Format("05.000"), time.Now().Format("05.000"), err)
	}
	return c.err == nil
}

// end ends some conversations.
func (h *held) end(which func(*conversation) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = slices.DeleteFunc(h.all, func(c *conversation) bool {
		if !which(c) {
			return false
		}
		c.ended = true
		c.conn.Close()
		return true
	})
}

// renew ends the conversations with nodes that were gone, and opens others for them and for those
// that broke.
func (h *held) renew(t *testing.T, gone ...string) {
	t.Helper()
	h.end(func(c *conversation) bool { return c.err != nil || c.isOf(gone) })
	h.fill(t)
}

// renewControls replaces all controls. Those that survived are in slots that did not move, and
// would survive the same again.
func (h *held) renewControls(t *testing.T) {
	t.Helper()
	h.end(func(c *conversation) bool { return c.front.control })
	h.fill(t)
}

// nodes returns on which nodes the conversations are.
func (h *held) nodes() map[string]int {
	h.mu.Lock()
	defer h.mu.Unlock()
	on := map[string]int{}
	for _, c := range h.all {
		on[c.node]++
	}
	return on
}

// breakage counts conversations by what they are: "tcp", "udp", "control tcp", "control udp".
type breakage struct {
	held, broken map[string]int
	own          int // broken ones of nodes that were gone
}

func newBreakage() breakage { return breakage{held: map[string]int{}, broken: map[string]int{}} }

// isOf reports whether it is of one of these nodes, or of those by a network, such as "udp n3".
func (c *conversation) isOf(gone []string) bool {
	return slices.Contains(gone, c.node) || slices.Contains(gone, c.network+" "+c.node)
}

func (c *conversation) kind() string {
	if c.front.control {
		return "control " + c.network
	}
	return c.network
}

// add adds what happened later.
func (v breakage) add(later breakage) breakage {
	sum := breakage{held: v.held, broken: map[string]int{}, own: v.own + later.own}
	for _, one := range []breakage{v, later} {
		for kind, n := range one.broken {
			sum.broken[kind] += n
		}
	}
	return sum
}

func (v breakage) total() (broken, controls int) {
	return v.broken["tcp"] + v.broken["udp"], v.broken["control tcp"] + v.broken["control udp"]
}

func (v breakage) String() string {
	var parts []string
	for _, kind := range []string{"tcp", "udp", "control tcp", "control udp"} {
		parts = append(parts, fmt.Sprintf("%s %d of %d", kind, v.broken[kind], v.held[kind]))
	}
	return fmt.Sprintf("%s; %d of the dead", strings.Join(parts, ", "), v.own)
}

// judge returns what broke since it was asked last. It waits until all conversations are answered
// after it is asked, but for those with nodes that are gone, and the controls.
func (h *held) judge(t *testing.T, gone ...string) breakage {
	t.Helper()
	since := time.Now()
	err := stage.Eventually(t.Context(), 2*sayLate, func(context.Context) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		late := 0
		for _, c := range h.all {
			if c.err == nil && !c.front.control && !c.isOf(gone) && c.answered.Before(since) {
				late++
			}
		}
		if late > 0 {
			return fmt.Errorf("%d connections have no answer", late)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return h.broke(t, gone)
}

func (h *held) broke(t *testing.T, gone []string) breakage {
	h.mu.Lock()
	defer h.mu.Unlock()
	v, said := newBreakage(), 0
	for _, c := range h.all {
		v.held[c.kind()]++
		switch {
		case c.err == nil || c.counted:
		case c.isOf(gone):
			c.counted = true
			v.own++
		default:
			c.counted = true
			v.broken[c.kind()]++
			if !c.front.control && said < 5 {
				said++
				t.Log(c.err)
			}
		}
	}
	return v
}
