package election

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// histories is how many random histories a quick test run goes through; `make test` goes through
// 100 000.
const histories = 2_000

// calm is how long after the last disturbance the promises of the protocol must hold.
const calm = 4500 * time.Millisecond

// TestRandomHistories runs the machine through random histories and checks what
// docs/design/l2-protocol.md promises. BERTH_L2_SEED replays one of them, with a trace;
// BERTH_L2_HISTORIES sets their number.
func TestRandomHistories(t *testing.T) {
	if text := os.Getenv("BERTH_L2_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		var trace strings.Builder
		if err := history(seed, &trace); err != nil {
			t.Errorf("%v\n%s", err, trace.String())
		} else {
			t.Log(trace.String())
		}
		return
	}
	count := uint64(histories)
	if text := os.Getenv("BERTH_L2_HISTORIES"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		count = n
	}
	var runs sync.WaitGroup
	seeds := make(chan uint64)
	for range runtime.GOMAXPROCS(0) {
		runs.Go(func() {
			for seed := range seeds {
				if err := history(seed, nil); err != nil {
					t.Errorf("BERTH_L2_SEED=%d: %v", seed, err)
				}
			}
		})
	}
	for seed := range count {
		if t.Failed() && seed%64 == 0 {
			break
		}
		seeds <- seed
	}
	close(seeds)
	runs.Wait()
}

// history is one random history.
func history(seed uint64, trace *strings.Builder) error {
	w := newWorld(seed, 2+int(seed%3), 1+int(seed/3%2), trace)
	r := w.random
	w.delay = w.between(0, 5*time.Millisecond)
	for _, addr := range w.addresses {
		w.needs[addr] = w.some()
	}
	w.older = r.IntN(4) == 0
	w.mute = !w.older && r.IntN(8) == 0
	for _, n := range w.nodes {
		n.needs, n.capabilities, n.old = maps.Clone(w.needs), w.some(), w.older && r.IntN(3) == 0
		n.drift = 0.99 + 0.02*r.Float64()
		w.after(w.between(0, 1500*time.Millisecond), n.boot)
	}
	if err := w.run(calm+1500*time.Millisecond, nil); err != nil {
		return err
	}
	if err := w.settles(); err != nil {
		return err
	}
	for range 1 + r.IntN(2) {
		for range 1 + r.IntN(4) {
			w.disturb()
			if err := w.run(w.between(0, 700*time.Millisecond), nil); err != nil {
				return err
			}
		}
		if r.IntN(2) == 0 {
			w.heal()
		}
		w.loss = min(w.loss, 0.05)
		for _, n := range w.nodes {
			n.slow = 0
		}
		if err := w.run(calm, nil); err != nil {
			return err
		}
		if err := w.settles(); err != nil {
			return err
		}
		if w.loss > 0 || slices.ContainsFunc(w.nodes, w.awaited) || slices.ContainsFunc(w.nodes, (*simNode).waits) {
			continue
		}
		before := w.moves
		if err := w.run(300*time.Millisecond, w.promised); err != nil {
			return err
		}
		if w.moves != before {
			return fmt.Errorf("%d moves while nothing happens", w.moves-before)
		}
	}
	return nil
}

// settles checks the promises. Where messages are lost, all messages in three of a peer's intervals
// may be. A node that waits in an outage, or for an answer to its bid, claims later. These are
// disturbances too, which must be over in a moment.
func (w *world) settles() error {
	err := w.promised()
	for range 20 {
		if err == nil || w.loss == 0 && !slices.ContainsFunc(w.nodes, (*simNode).waits) {
			break
		}
		if err := w.run(100*time.Millisecond, nil); err != nil {
			return err
		}
		err = w.promised()
	}
	return err
}

// some returns random capabilities, out of two.
func (w *world) some() Capabilities { return Capabilities(w.random.IntN(4)) }

// disturb causes a fault, or removes one.
func (w *world) disturb() {
	n := w.nodes[w.random.IntN(len(w.nodes))]
	switch w.random.IntN(21) {
	case 0:
		if n.m != nil {
			n.crash()
		} else {
			n.boot()
		}
	case 1, 2:
		if n.frozen {
			n.thaw()
		} else {
			n.freeze()
		}
	case 3:
		w.log("partition")
		for _, a := range w.nodes {
			for _, b := range w.nodes {
				apart := (a.index < n.index) != (b.index < n.index)
				w.blocked[[2]int{a.index, b.index}] = apart
			}
		}
	case 4:
		w.log("%s is cut off", n.name)
		for _, b := range w.nodes {
			w.blocked[[2]int{n.index, b.index}], w.blocked[[2]int{b.index, n.index}] = true, true
		}
	case 5:
		w.log("%s is deaf", n.name)
		for _, b := range w.nodes {
			w.blocked[[2]int{b.index, n.index}] = true
		}
	case 6:
		other := w.nodes[w.random.IntN(len(w.nodes))]
		w.log("%s does not reach %s", n.name, other.name)
		w.blocked[[2]int{n.index, other.index}] = true
	case 7:
		w.loss = 0.3 * w.random.Float64()
		w.log("loss %.2f", w.loss)
	case 8:
		n.apiCut = !n.apiCut
		w.log("%s: API cut %t", n.name, n.apiCut)
		if n.apiCut {
			n.lose()
		} else {
			n.connect()
		}
	case 9:
		n.slow = w.between(0, 200*time.Millisecond)
		w.log("%s is slow, %s", n.name, n.slow)
	case 10:
		if n.state = Leaving; w.random.IntN(2) == 0 {
			n.state = Ready
		}
		w.log("%s is %s", n.name, n.state)
		n.act()
	case 11:
		n.replace(w.between(50*time.Millisecond, time.Second))
	case 12, 13:
		n.setCapabilities(w.some())
	case 15:
		w.reassign(w.addresses[w.random.IntN(len(w.addresses))])
	case 17:
		w.steal(w.addresses[w.random.IntN(len(w.addresses))], 1+w.random.IntN(20))
	case 16:
		w.twice = 0.3 * w.random.Float64()
		w.log("%.2f arrive twice", w.twice)
	case 18:
		w.silent = w.now + w.between(50*time.Millisecond, time.Second)
		w.log("all is lost until %.3f", w.silent.Seconds())
	case 19:
		if n.m != nil && !n.frozen {
			n.reopen(w.between(0, time.Second))
		}
	case 20:
		w.replay()
	case 14:
		w.need(w.addresses[w.random.IntN(len(w.addresses))], w.some())
	}
}

// heal removes all faults.
func (w *world) heal() {
	w.log("all heals")
	clear(w.blocked)
	w.loss, w.twice = 0, 0
	for _, n := range w.nodes {
		n.slow = 0
		n.state = Ready
		n.thaw()
		if n.apiCut {
			n.apiCut = false
			n.connect()
		}
		if n.m == nil {
			n.boot()
		}
	}
}

// promised checks what must hold when nothing happened for a while.
func (w *world) promised() error {
	if w.fault != nil {
		return w.fault
	}
	if slices.ContainsFunc(w.nodes, w.awaited) {
		return nil
	}
	for _, addr := range w.addresses {
		owners := w.owners(addr)
		for i, a := range owners {
			if !a.suits(addr) {
				return fmt.Errorf("at %.3f s %s, which has %b, answers for %s, which needs %b",
					w.now.Seconds(), a.name, a.capabilities, addr, a.needed(addr))
			}
			for _, b := range owners[i+1:] {
				if w.connected(a, b) {
					return fmt.Errorf("at %.3f s %s and %s, which can reach each other, both answer for %s",
						w.now.Seconds(), a.name, b.name, addr)
				}
			}
		}
		if err := w.servesPresentTenant(addr, owners); err != nil {
			return err
		}
		// If a node shares no segment with others, only the API shows whether the node is alive,
		// and it does not show whether the speaker's process is.
		claimant := w.api[addr].Node
		trusted := claimant != "" && claimant != stranger && w.node(claimant).frozen
		for _, n := range w.nodes {
			if n.m == nil || n.old || n.frozen || n.state != Ready || !n.suits(addr) || trusted {
				continue // an older speaker only must not make a second owner
			}
			if n.apiCut && (w.mute || n.needs[addr] != w.needs[addr]) {
				continue // another node knows better what the address needs, and only the API tells who lives
			}
			// It takes the address from a node that tells no capabilities, unless that claim is
			// relayed in a segment that is cut.
			if !slices.ContainsFunc(owners, func(o *simNode) bool {
				return n.needed(addr) == 0 || o.able() != 0 || w.cut()
			}) {
				return fmt.Errorf("at %.3f s %d nodes answer for %s and none of them can, though %s could",
					w.now.Seconds(), len(owners), addr, n.name)
			}
		}
	}
	return nil
}

// servesPresentTenant checks that no node answers for an address of a Service that has lost it,
// while a node that it hears knows better and could answer. A node that answers for the Service
// that has the address now, and is not heard there, keeps that one from it.
func (w *world) servesPresentTenant(addr netip.Addr, owners []*simNode) error {
	present := func(o *simNode) bool { return o.tenants[addr] == w.tenants[addr] }
	if w.older || w.mute || slices.ContainsFunc(owners, present) {
		return nil
	}
	for _, o := range owners {
		for _, n := range w.nodes {
			if n.m == nil || n.frozen || n.apiCut || n.old || n.state != Ready || !n.linked || !n.suits(addr) ||
				w.blocked[[2]int{n.index, o.index}] || w.blocked[[2]int{o.index, n.index}] {
				continue
			}
			return fmt.Errorf("at %.3f s %s answers for %s of a Service that has lost it, though %s knows better",
				w.now.Seconds(), o.name, addr, n.name)
		}
	}
	return nil
}

// awaited reports whether a node waits, or did a moment ago, for the next process of a node that
// held its addresses, and does not hear it. That ends with the hold time.
func (w *world) awaited(n *simNode) bool {
	return w.now < n.holds+calm && slices.ContainsFunc(w.nodes, func(o *simNode) bool {
		if o == n || o.m == nil {
			return false
		}
		known := o.m.peers.peers[n.name]
		return known != nil && (n.m == nil || known.boot != n.m.boot)
	})
}

// waits reports whether the node is in an outage, or asks by the mirror whether anybody answers,
// and may claim something later for that.
func (n *simNode) waits() bool {
	return n.m != nil && (n.m.outage.peers > 0 ||
		slices.ContainsFunc(n.m.ordered, func(c *addressState) bool { return c.bid.term != 0 }))
}

// connected reports whether the two nodes reach each other directly, in both directions, by one of
// the two channels.
func (w *world) connected(a, b *simNode) bool {
	segment := !w.mute && !w.blocked[[2]int{a.index, b.index}] && !w.blocked[[2]int{b.index, a.index}]
	return segment || !a.apiCut && !b.apiCut
}

// cut reports whether a node does not reach another one on the segment.
func (w *world) cut() bool {
	return slices.Contains(slices.Collect(maps.Values(w.blocked)), true)
}

// together returns a world whose nodes all run and know each other.
func together(t *testing.T, nodes, addresses int, trace *strings.Builder) *world {
	t.Helper()
	w := newWorld(1, nodes, addresses, trace)
	for _, n := range w.nodes {
		w.after(w.between(0, time.Second), n.boot)
	}
	if err := w.run(calm, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.promised(); err != nil {
		t.Fatal(err)
	}
	return w
}

// The addresses of a dead node are taken within four intervals.
func TestMachineTakesAddressesOfDeadNode(t *testing.T) {
	for seed := range uint64(50) {
		w := together(t, 5, 20, nil)
		w.random.Uint64N(seed + 1) // another history
		dead := w.nodes[seed%5]
		if err := w.run(w.between(0, 300*time.Millisecond), nil); err != nil {
			t.Fatal(err)
		}
		kept := map[netip.Addr]*simNode{}
		for _, addr := range w.addresses {
			kept[addr] = w.owners(addr)[0]
		}
		dead.crash()
		// Three intervals of silence, a rank's wait, and the delay of the network.
		if err := w.run(4*simInterval, nil); err != nil {
			t.Fatal(err)
		}
		for _, addr := range w.addresses {
			owners := w.owners(addr)
			if len(owners) != 1 || kept[addr] != dead && owners[0] != kept[addr] {
				t.Errorf("seed %d: %s has %d owners; before it had %s, and %s died",
					seed, addr, len(owners), kept[addr].name, dead.name)
			}
		}
	}
}

// What a node answers once more when it wakes is corrected: who took its addresses announces them
// again once it is heard, and announces no others.
func TestMachineAnnouncesAfterOwnerWakes(t *testing.T) {
	w := together(t, 3, 12, nil)
	run := func(d time.Duration) {
		t.Helper()
		if err := w.run(d, nil); err != nil {
			t.Fatal(err)
		}
	}
	// Who came first has all, so it is the second that falls asleep whose addresses are some.
	for range 2 {
		asleep := w.owners(w.addresses[0])[0]
		before := map[netip.Addr]*simNode{}
		for _, addr := range w.addresses {
			before[addr] = w.owners(addr)[0]
		}
		asleep.frozen = true
		run(time.Second)
		woke := w.now
		asleep.frozen = false
		asleep.act()
		run(calm)
		for _, addr := range w.addresses {
			taken := before[addr] == asleep
			if now := w.owners(addr); len(now) != 1 || now[0] == asleep || taken != (now[0].told[addr] >= woke) {
				t.Errorf("%s was %s's while %s fell asleep; it is %s's, who announced it at %s, and the other woke at %s",
					addr, before[addr].name, asleep.name, now[0].name, now[0].told[addr], woke)
			}
		}
	}
}

// In a planned move both nodes answer for a moment.
func TestMachinePlannedMoveLeavesNoGap(t *testing.T) {
	for i := range 4 {
		w := together(t, 4, 30, nil)
		leaver := w.nodes[i]
		overlap := map[netip.Addr]time.Duration{}
		watch := func() error {
			for _, addr := range w.addresses {
				switch n := len(w.owners(addr)); n {
				case 0:
					return fmt.Errorf("nobody answers for %s", addr)
				case 1:
				default:
					overlap[addr] += 10 * time.Millisecond
				}
			}
			return nil
		}
		leaver.state = Leaving
		leaver.act()
		if err := w.run(500*time.Millisecond, watch); err != nil {
			t.Error(err)
		}
		for addr, d := range overlap {
			if d > 50*time.Millisecond {
				t.Errorf("%s had two owners for %s", addr, d)
			}
		}
		if n := leaver.m.owned; n != 0 || !leaver.m.Drained() {
			t.Errorf("%s still owns %d addresses, drained %t", leaver.name, n, leaver.m.Drained())
		}
		before := w.moves
		leaver.state = Ready
		leaver.act()
		if err := w.run(2*time.Second, watch); err != nil {
			t.Error(err)
		}
		if w.moves != before {
			t.Errorf("%d moves when %s came back: an owner stays", w.moves-before, leaver.name)
		}
	}
}

// A node that is slow to hear of an offer has no rival: there is time, for the address is served.
func TestMachinePlannedMoveHasNoContest(t *testing.T) {
	w := together(t, 4, 30, nil)
	for _, n := range w.nodes {
		n.slow = 3 * rankDelay
	}
	for range 3 {
		for _, leaver := range w.nodes {
			owned, before := leaver.m.owned, w.moves
			leaver.state = Leaving
			leaver.act()
			if err := w.run(simHandover, nil); err != nil {
				t.Fatal(err)
			}
			if left, moves := owned-leaver.m.owned, w.moves-before; left != owned || moves != owned {
				t.Errorf(
					"%s left %d of its %d addresses by %d moves, want one for each",
					leaver.name,
					left,
					owned,
					moves,
				)
			}
			leaver.state = Ready
			leaver.act()
			if err := w.run(calm, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Within a second after a partition heals each address has one owner, and the segment has heard
// which.
func TestMachineHealedPartitionHasOneOwner(t *testing.T) {
	for cut := 1; cut < 4; cut++ {
		w := together(t, 4, 30, nil)
		for _, n := range w.nodes { // the API does not help
			n.apiCut = true
		}
		for _, a := range w.nodes {
			for _, b := range w.nodes {
				w.blocked[[2]int{a.index, b.index}] = (a.index < cut) != (b.index < cut)
			}
		}
		if err := w.run(calm, nil); err != nil {
			t.Fatal(err)
		}
		for _, addr := range w.addresses {
			if n := len(w.owners(addr)); n != 2 {
				t.Fatalf("%s has %d owners during the partition, want one on each side", addr, n)
			}
		}
		clear(w.blocked)
		healed := w.now
		if err := w.run(3*simInterval, nil); err != nil {
			t.Fatal(err)
		}
		if err := w.promised(); err != nil {
			t.Error(err)
		}
		for _, addr := range w.addresses {
			if owner := w.owners(addr)[0]; owner.told[addr] < healed {
				t.Errorf("%s, the owner of %s, has not told the segment again since the partition healed",
					owner.name, addr)
			} else if cut == 1 && owner.index < cut || cut == 3 && owner.index >= cut {
				t.Errorf("%s went to %s, which had been alone", addr, owner.name)
			}
		}
	}
}

func TestMachineFreshAddressesGoToFirstRank(t *testing.T) {
	w := together(t, 5, 0, nil)
	for i := range 200 {
		addr := netip.AddrFrom4([4]byte{192, 0, 3, byte(i)})
		w.addresses = append(w.addresses, addr)
		for _, n := range w.nodes {
			w.after(w.between(0, 5*time.Millisecond), func() {
				n.want(addr)
				n.applyOutputs()
				n.sleep()
			})
		}
	}
	if err := w.run(time.Second, nil); err != nil {
		t.Fatal(err)
	}
	for _, addr := range w.addresses {
		owners := w.owners(addr)
		if first := choose(addr.String(), w.names(), nil, anyone); len(owners) != 1 || owners[0].name != first {
			t.Errorf("%s has %d owners, the first %s; want %s", addr, len(owners), owners[0].name, first)
		}
	}
}

func TestMachineRebalanceLeavesNoGap(t *testing.T) {
	w := newWorld(1, 4, 8, nil)
	w.nodes[0].boot()
	if err := w.run(calm, nil); err != nil { // it owns all addresses
		t.Fatal(err)
	}
	for _, n := range w.nodes[1:] {
		n.boot()
	}
	if err := w.run(calm, nil); err != nil {
		t.Fatal(err)
	}
	if n := w.nodes[0].m.owned; n != len(w.addresses) {
		t.Fatalf("n0 owns %d addresses, want all: owners stay", n)
	}
	for _, n := range w.nodes {
		n.m.Rebalance(w.addresses...)
		n.act()
	}
	if err := w.run(time.Duration(len(w.addresses)+1)*simHandover, func() error {
		for _, addr := range w.addresses {
			if len(w.owners(addr)) == 0 {
				return fmt.Errorf("nobody answers for %s", addr)
			}
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	for _, addr := range w.addresses {
		if owners, first := w.owners(addr), choose(addr.String(), w.names(), nil, anyone); len(owners) != 1 ||
			owners[0].name != first {
			t.Errorf("%s has %d owners, the first %s; want %s", addr, len(owners), owners[0].name, first)
		}
	}
}

func TestMachineHoldKeepsAddressesOverRestart(t *testing.T) {
	for seed := range uint64(20) {
		w := together(t, 4, 20, nil)
		w.random = rand.New(rand.NewPCG(seed, 1))
		node, before := w.nodes[seed%4], map[netip.Addr]string{}
		for _, addr := range w.addresses {
			before[addr] = w.owners(addr)[0].name
		}
		node.replace(w.between(100*time.Millisecond, 7*time.Second))
		check := func() error {
			for _, addr := range w.addresses {
				if owners := w.owners(addr); len(owners) > 1 || len(owners) == 1 && owners[0].name != before[addr] {
					return fmt.Errorf("at %.3f s %s answers for %s of %s",
						w.now.Seconds(), owners[0].name, addr, before[addr])
				}
			}
			return nil
		}
		if err := w.run(9*time.Second, check); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := w.promised(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func TestMachineHoldExpires(t *testing.T) {
	w := together(t, 3, 20, nil)
	node := w.owners(w.addresses[0])[0]
	node.replace(time.Hour)
	if err := w.run(holdTime-time.Second, nil); err != nil {
		t.Fatal(err)
	}
	if owners := w.owners(w.addresses[0]); len(owners) > 0 {
		t.Fatal("the others took over within the hold time")
	}
	node.holds = 0
	if err := w.run(time.Second+4*simInterval, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.promised(); err != nil {
		t.Fatal(err)
	}
}

// What a node does not claim within a second of its return is taken.
func TestMachineHoldEndsAfterReturn(t *testing.T) {
	w := together(t, 3, 20, nil)
	node := w.owners(w.addresses[0])[0]
	var lost []netip.Addr
	for _, addr := range w.addresses {
		if w.owners(addr)[0] == node {
			lost = append(lost, addr)
		}
	}
	node.replace(time.Second)
	w.forgetful = node
	if err := w.run(40*time.Millisecond+time.Second+simListen+resumeWithin+5*simInterval, nil); err != nil {
		t.Fatal(err)
	}
	for _, addr := range lost {
		if owners := w.owners(addr); len(owners) != 1 || owners[0] == node {
			t.Errorf("%s is answered for by %d nodes, or still by the one that does not know it", addr, len(owners))
		}
	}
}

// capable returns a world whose addresses all need a capability that all of its nodes have.
func capable(t *testing.T, nodes, addresses int) *world {
	t.Helper()
	w := together(t, nodes, addresses, nil)
	for _, n := range w.nodes {
		n.setCapabilities(1)
	}
	for _, addr := range w.addresses {
		w.need(addr, 1)
	}
	if err := w.run(simHandover, nil); err != nil {
		t.Fatal(err)
	}
	return w
}

// A lost capability leaves no gap. A gained one moves nothing.
func TestMachineSetCapabilities(t *testing.T) {
	w := capable(t, 4, 30)
	watch := func() error {
		for _, addr := range w.addresses {
			if len(w.owners(addr)) == 0 {
				return fmt.Errorf("at %.3f s nobody answers for %s", w.now.Seconds(), addr)
			}
		}
		return nil
	}
	loser := w.owners(w.addresses[0])[0]
	loser.setCapabilities(2)
	if err := w.run(200*time.Millisecond, watch); err != nil {
		t.Fatal(err)
	}
	if loser.m.owned != 0 {
		t.Errorf("%s still owns %d addresses", loser.name, loser.m.owned)
	}
	before := w.moves
	loser.setCapabilities(3)
	if err := w.run(2*time.Second, watch); err != nil {
		t.Fatal(err)
	}
	if w.moves != before {
		t.Errorf("%d moves when it gained the capability: an owner stays", w.moves-before)
	}
}

// A node stops at once if no other node is able to take the address, and answers again when one is.
func TestMachineStopsWithoutCapability(t *testing.T) {
	w := capable(t, 3, 1)
	owner, other := w.owners(w.addresses[0])[0], w.nodes[0]
	if other == owner {
		other = w.nodes[1]
	}
	for _, n := range w.nodes {
		if n != owner {
			n.setCapabilities(0)
		}
	}
	if err := w.run(100*time.Millisecond, nil); err != nil {
		t.Fatal(err)
	}
	owner.setCapabilities(0)
	if owners := w.owners(w.addresses[0]); len(owners) > 0 {
		t.Fatalf("%s still answers", owners[0].name)
	}
	if err := w.run(calm, nil); err != nil {
		t.Fatal(err)
	}
	if owners := w.owners(w.addresses[0]); len(owners) > 0 {
		t.Fatalf("%s answers, which lacks the capability", owners[0].name)
	}
	other.setCapabilities(1)
	if err := w.run(100*time.Millisecond, nil); err != nil {
		t.Fatal(err)
	}
	if owners := w.owners(w.addresses[0]); len(owners) != 1 || owners[0] != other {
		t.Errorf("%d nodes answer, want %s", len(owners), other.name)
	}
}

// A node that is exempt owns what others lack the capability for, and nobody takes it from it.
func TestMachineExempt(t *testing.T) {
	w := capable(t, 3, 10)
	exempt := w.nodes[0]
	w.exempt = []string{exempt.name}
	for _, addr := range w.addresses {
		w.need(addr, 2)
	}
	if err := w.run(simHandover+calm, nil); err != nil {
		t.Fatal(err)
	}
	for _, addr := range w.addresses {
		if owners := w.owners(addr); len(owners) != 1 || owners[0] != exempt {
			t.Fatalf("%d nodes answer for %s, want %s", len(owners), addr, exempt.name)
		}
	}
	before := w.moves
	for _, n := range w.nodes[1:] {
		n.setCapabilities(3)
	}
	if err := w.run(calm, nil); err != nil {
		t.Fatal(err)
	}
	if w.moves != before {
		t.Errorf("%d moves when others gained the capability: an owner stays", w.moves-before)
	}
}

func TestMachineStopsAfterHandoverTime(t *testing.T) {
	w := capable(t, 2, 1)
	owner := w.owners(w.addresses[0])[0]
	other := w.nodes[1-owner.index]
	other.m.SetDesired(other.local(), w.addresses[0], Desired{}) // its view of the API differs
	other.applyOutputs()
	owner.setCapabilities(0)
	if err := w.run(simHandover-100*time.Millisecond, nil); err != nil {
		t.Fatal(err)
	}
	if len(w.owners(w.addresses[0])) != 1 {
		t.Error("given up before the handover time")
	}
	if err := w.run(200*time.Millisecond, nil); err != nil {
		t.Fatal(err)
	}
	if owners := w.owners(w.addresses[0]); len(owners) > 0 {
		t.Errorf("%s still answers after the handover time", owners[0].name)
	}
}

func TestMachineOlderSpeakerGivesWay(t *testing.T) {
	w := newWorld(1, 3, 4, nil)
	w.nodes[0].old = true
	w.nodes[0].boot()
	if err := w.run(calm, nil); err != nil { // it owns all addresses
		t.Fatal(err)
	}
	for _, addr := range w.addresses {
		w.need(addr, 1)
	}
	for _, n := range w.nodes[1:] {
		n.capabilities = 1
		n.boot()
	}
	if err := w.run(calm, nil); err != nil {
		t.Fatal(err)
	}
	for _, addr := range w.addresses {
		if owners := w.owners(addr); len(owners) != 1 || owners[0].old {
			t.Errorf("%d nodes answer for %s, the first %s; want one that has the capability",
				len(owners), addr, owners[0].name)
		}
	}
}

// A claim whose withdrawal was lost does not stop other nodes forever.
func TestMachineLostWithdrawal(t *testing.T) {
	w := capable(t, 2, 1)
	owner := w.owners(w.addresses[0])[0]
	other := w.nodes[1-owner.index]
	w.blocked[[2]int{other.index, owner.index}] = true // it does not hear the pull
	if err := w.run(4*simInterval, nil); err != nil {
		t.Fatal(err)
	}
	w.loss = 1
	owner.setCapabilities(2)
	if err := w.run(simInterval, nil); err != nil {
		t.Fatal(err)
	}
	w.loss = 0
	if err := w.run(time.Second, nil); err != nil {
		t.Fatal(err)
	}
	if owners := w.owners(w.addresses[0]); len(owners) != 1 || owners[0] != other {
		t.Errorf("%d nodes answer, want %s", len(owners), other.name)
	}
}

// A stolen token of a node that is on another segment takes no address from its owner, however
// often it is used, and however few nodes are left.
func TestMachineMirroredOfStranger(t *testing.T) {
	for nodes := 1; nodes <= 3; nodes++ {
		w := together(t, nodes, 3, nil)
		for _, addr := range w.addresses {
			w.steal(addr, 200)
		}
		if err := w.run(10*time.Second, func() error {
			for _, addr := range w.addresses {
				if n := len(w.owners(addr)); n != 1 {
					return fmt.Errorf("at %s %s is answered by %d nodes", w.now, addr, n)
				}
			}
			return nil
		}); err != nil {
			t.Errorf("of %d nodes: %v", nodes, err)
		}
	}
}

// The mirror may show the claim of a dead node with a term that nobody on the segment knows: its
// address was not wanted for a while. It does not count, and an owner claims above it.
func TestMachineMirroredTermOfDeadNode(t *testing.T) {
	w := together(t, 2, 1, nil)
	addr := w.addresses[0]
	if err := w.run(5*time.Second, nil); err != nil {
		t.Fatal(err)
	}
	owner := w.owners(addr)[0]
	const term = 50
	owner.m.Mirrored(owner.local(), Claim{Address: addr, Term: term})
	owner.applyOutputs()
	if got := owner.pending[addr]; got.Node != owner.name || got.Term <= term {
		t.Errorf("the owner writes %+v, want a claim of a term above %d", got, term)
	}
	if err := w.run(time.Second, nil); err != nil {
		t.Fatal(err)
	}
	if now := w.owners(addr); len(now) != 1 || now[0] != owner {
		t.Errorf("%d nodes own it, want the same one", len(now))
	}
}

// When the API was away for all and comes back to one node after the other, nothing moves, and no
// node thinks that it is outdated. Who does not come back in time is outranked.
func TestMachineNothingMovesWhenAPIReturns(t *testing.T) {
	for seed := range uint64(12) {
		w := together(t, 8, 200, nil)
		w.random = rand.New(rand.NewPCG(seed, 1))
		cut := w.between(simFresh+simConfirm, 2*simStale) // some are stale already, or all
		for _, n := range w.nodes {
			n.apiCut = true
		}
		outdated := func() error {
			for _, n := range w.nodes {
				if fresher := n.m.Outdated(); fresher != "" {
					return fmt.Errorf("at %s %s thinks that %s knows better", w.now, n.name, fresher)
				}
			}
			return nil
		}
		if err := w.run(cut, outdated); err != nil {
			t.Fatal(err)
		}
		before := w.moves
		last := w.nodes[seed%8]
		for _, n := range w.nodes {
			if n != last {
				w.after(w.between(0, simGrace-2*simConfirm), func() { n.apiCut = false })
			}
		}
		if err := w.run(simGrace-simConfirm, outdated); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if w.moves != before {
			t.Errorf("seed %d: %d moves while the API comes back", seed, w.moves-before)
		}
		if err := w.run(simGrace, nil); err != nil {
			t.Fatal(err)
		}
		if n := last.m.owned; n != 0 || last.m.Outdated() == "" {
			t.Errorf("seed %d: %s, which is the only one without the API, has %d addresses", seed, last.name, n)
		}
		moved := w.moves
		last.apiCut = false
		if err := w.run(simConfirm+simInterval, nil); err != nil {
			t.Fatal(err)
		}
		if err := w.run(2*simGrace, outdated); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		if w.moves != moved {
			t.Errorf("seed %d: %d moves when %s is back", seed, w.moves-moved, last.name)
		}
	}
}

// A node that lost the API long before all others did stays outranked when these are back.
func TestMachineStaleBeforeTheOutage(t *testing.T) {
	w := together(t, 4, 40, nil)
	lost := w.nodes[0]
	lost.apiCut = true
	run := func(d time.Duration, check func() error) {
		t.Helper()
		if err := w.run(d, check); err != nil {
			t.Fatal(err)
		}
	}
	run(3*simGrace, nil)
	for _, n := range w.nodes {
		n.apiCut = true
	}
	run(simFresh+2*simConfirm, nil) // no other one is stale by then
	for _, n := range w.nodes[1:] {
		n.apiCut = false
	}
	run(simFresh+2*simConfirm, nil) // until they have seen that each of them is back
	run(2*simGrace, func() error {
		if lost.m.owned > 0 || lost.m.Outdated() == "" {
			return fmt.Errorf("%s has %d addresses, outdated by %q", lost.name, lost.m.owned, lost.m.Outdated())
		}
		return nil
	})
}

// A node that hears from the API again for a moment only, before others do, takes nothing from them
// the next time, and neither does one that loses it for a moment after it was back.
func TestMachineUnsteadyAPI(t *testing.T) {
	cut := func(w *world, is bool, nodes ...*simNode) func(time.Duration) {
		for _, n := range nodes {
			n.apiCut = is
		}
		return func(d time.Duration) {
			t.Helper()
			if err := w.run(d, func() error {
				for _, n := range w.nodes {
					if fresher := n.m.Outdated(); fresher != "" {
						return fmt.Errorf("at %s %s thinks that %s knows better", w.now, n.name, fresher)
					}
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		}
	}
	for _, back := range []time.Duration{simConfirm + simInterval, simFresh + simStale} {
		w := together(t, 6, 60, nil)
		cut(w, true, w.nodes...)(2 * simStale)
		cut(w, false, w.nodes[0])(min(back, simGrace-simInterval))
		cut(w, true, w.nodes[0])(simFresh + 2*simConfirm)
		before := w.moves
		cut(w, false, w.nodes[0])(simGrace - 2*simConfirm)
		cut(w, false, w.nodes...)(2 * simGrace)
		if w.moves != before {
			t.Errorf("back for %s: %d moves", back, w.moves-before)
		}
	}
}

// Nodes that lose the API for moments, again and again, do not keep each other from taking what a
// node has that lost it long ago.
func TestMachineUnsteadyNodesOutrank(t *testing.T) {
	w := together(t, 3, 30, nil)
	lost := w.nodes[0]
	lost.apiCut = true
	if err := w.run(3*simGrace, nil); err != nil {
		t.Fatal(err)
	}
	outdated := 0
	for i := range 120 {
		for j, n := range w.nodes[1:] {
			n.apiCut = (i+j)%3 > 0 // out of phase
		}
		if err := w.run(simConfirm+simInterval/3, func() error {
			if lost.m.owned > 0 {
				return fmt.Errorf("%s has %d addresses", lost.name, lost.m.owned)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if lost.m.Outdated() != "" {
			outdated++
		}
	}
	if outdated < 40 {
		t.Errorf("it was outdated %d times of 120", outdated)
	}
}

// When contact was lost counts from before contacts that were short.
func TestContact(t *testing.T) {
	start := time.Unix(1000, 0)
	times := Times{FreshWithin: 7 * time.Second, StaleAfter: 15 * time.Second, Grace: time.Minute}
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	var c Contact
	spell := func(from, to int) { // confirmed every 3 s
		for s := from; s <= to; s += 3 {
			c = c.Confirm(at(s), at(s), times)
		}
	}
	is := func(what string, returned, lost int) {
		t.Helper()
		want := time.Time{}
		if lost >= 0 {
			want = at(lost)
		}
		if !c.returned.Equal(at(returned)) || !c.lost.Equal(want) {
			t.Errorf("%s: returned %s, lost %s; want %s, %s", what, c.returned, c.lost, at(returned), want)
		}
	}
	spell(0, 30)
	is("new", 0, -1)
	spell(60, 120)
	is("after its first gap, which came soon", 60, -1)
	spell(180, 300)
	is("after an outage", 180, 120)
	c = c.Confirm(at(330), at(322), times) // vouched for
	c = c.Confirm(at(331), at(323), times)
	is("vouched for", 331, 300)
	spell(400, 403)
	for s := 412; s < 480; s++ {
		c = c.Confirm(at(s), at(s-8), times)
	}
	spell(500, 500)
	is("after moments of contact", 500, 300)
	for s := 600; s <= 700; s += 20 {
		spell(s, s+12)
	}
	is("after many of them", 700, 692)
	for s := 800; s <= 1500; s += 10 {
		spell(s, s)
	}
	is("after very many that ended at once", 1500, 1270)
	before := c
	if c = c.Past(at(1501)).Contact(at(1501)); c != before {
		t.Errorf("the next process knows %v, want %v", c, before)
	}
	if never := (Contact{}).Past(at(1501)).Contact(at(1501)); !never.IsZero() {
		t.Errorf("the next process of one that had no contact knows %v", never)
	}
}

// A process that begins soon after the API came back knows that it did, as the one before it.
func TestMachineCrashesAfterAPIReturns(t *testing.T) {
	for _, back := range []time.Duration{simConfirm + simInterval, simFresh + simConfirm/2} {
		w := together(t, 6, 60, nil)
		run := func(d time.Duration) {
			t.Helper()
			if err := w.run(d, func() error {
				for _, n := range w.nodes {
					if n.m == nil {
						continue
					}
					if fresher := n.m.Outdated(); fresher != "" {
						return fmt.Errorf("at %s %s thinks that %s knows better", w.now, n.name, fresher)
					}
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		}
		for _, n := range w.nodes {
			n.apiCut = true
		}
		run(2 * simStale)
		first := w.nodes[0]
		first.apiCut = false
		run(back)
		knew := first.contact
		first.crash()
		run(100 * time.Millisecond)
		first.boot()
		if first.contact.lost != knew.lost || first.contact.had != knew.had || first.contact.lost.IsZero() {
			t.Errorf("its next process knows %+v, and it knew %+v", first.contact, knew)
		}
		run(simListen)
		before := w.moves
		run(simGrace - back - simListen - simConfirm)
		for _, n := range w.nodes {
			n.apiCut = false
		}
		run(2 * simGrace)
		if w.moves != before {
			t.Errorf("back for %s: %d moves", back, w.moves-before)
		}
	}
}

// A node that starts while others are stale takes nothing from them before they had their time: the
// API may have been away for them because it was on this node. A node that never lost the API does
// not wait.
func TestMachineStartsAmongStaleNodes(t *testing.T) {
	w := together(t, 4, 40, nil)
	run := func(d time.Duration) {
		t.Helper()
		if err := w.run(d, nil); err != nil {
			t.Fatal(err)
		}
	}
	starts, owner := w.nodes[0], w.owners(w.addresses[0])[0]
	if starts == owner {
		starts = w.nodes[1]
	}
	for _, n := range w.nodes {
		n.apiCut = true
	}
	run(calm)
	starts.crash()
	run(calm)
	owned := owner.m.owned
	starts.apiCut, starts.contact = false, Contact{}
	starts.boot()
	run(simListen + 500*time.Millisecond)
	if n := owner.m.owned; n != owned || owner.m.Outdated() != "" {
		t.Errorf("%s has %d of its %d addresses when another starts, outdated by %q", owner.name, n, owned, owner.m.Outdated())
	}
	for _, n := range w.nodes {
		n.apiCut = false
	}
	run(2 * calm)
	owner = w.owners(w.addresses[0])[0]
	owner.apiCut = true
	run(simStale + simInterval + 100*time.Millisecond)
	if n := owner.m.owned; n != 0 {
		t.Errorf("%s has %d addresses though others never lost the API", owner.name, n)
	}
}

// On a mute segment the first thing that nodes see of the API, when it is back, may be that an
// owner is gone. They cannot know yet what the others do about that, so they bid.
func TestMachineMuteBidsBeforeConfirmation(t *testing.T) {
	w := newWorld(1, 3, 1, nil)
	w.mute = true
	for _, n := range w.nodes {
		w.after(w.between(0, time.Second), n.boot)
	}
	if err := w.run(calm, nil); err != nil {
		t.Fatal(err)
	}
	addr := w.addresses[0]
	owner := w.owners(addr)[0]
	for _, n := range w.nodes {
		n.apiCut = true
	}
	if err := w.run(20*time.Second, nil); err != nil {
		t.Fatal(err)
	}
	owner.crash()
	for _, n := range w.nodes {
		if n.apiCut = false; n != owner {
			n.m.Mirrored(n.local(), Claim{Address: addr, Term: w.api[addr].Term})
			n.applyOutputs()
			n.sleep()
		}
	}
	if err := w.run(calm, func() error {
		if n := len(w.owners(addr)); n > 1 {
			return fmt.Errorf("at %s %d nodes answer", w.now, n)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if n := len(w.owners(addr)); n != 1 {
		t.Errorf("in the end %d nodes answer, want 1", n)
	}
}

// When a mute segment begins to carry messages, nodes hear of each other one after the other. Those
// that are heard first take nothing from those that are not heard yet.
func TestMachineMuteSegmentHeard(t *testing.T) {
	for seed := range uint64(50) {
		w := newWorld(seed, 3, 8, nil)
		w.mute, w.delay = true, 5*time.Millisecond
		for _, n := range w.nodes {
			w.after(w.between(0, time.Second), n.boot)
		}
		if err := w.run(2*calm, nil); err != nil {
			t.Fatal(err)
		}
		before := map[netip.Addr]*simNode{}
		for _, addr := range w.addresses {
			before[addr] = w.owners(addr)[0]
		}
		w.mute = false
		if err := w.run(2*calm, func() error {
			for _, addr := range w.addresses {
				if now := w.owners(addr); len(now) != 1 || now[0] != before[addr] {
					return fmt.Errorf("at %s %d nodes answer for %s, which %s had", w.now, len(now), addr, before[addr].name)
				}
			}
			return nil
		}); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

// A node that starts has heard nobody yet. It does not say that others are not heard before it has
// listened; on a mute segment it does then.
func TestMachineUnheard(t *testing.T) {
	for _, mute := range []bool{false, true} {
		w := newWorld(1, 3, 8, nil)
		w.mute = mute
		for _, n := range w.nodes {
			w.after(w.between(0, time.Second), n.boot)
		}
		if err := w.run(2*calm, nil); err != nil {
			t.Fatal(err)
		}
		n := w.nodes[0]
		n.crash()
		w.after(2*time.Second, n.boot)
		said := false
		if err := w.run(2*calm, func() error {
			if n.m == nil {
				return nil
			}
			if summary := n.m.Summary(n.local()); len(summary.Unheard) > 0 {
				if said = true; !summary.Claiming {
					return fmt.Errorf("at %s nodes are not heard, though it listens still", w.now)
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		if said != mute {
			t.Errorf("mute: %t, and it says that others are not heard: %t", mute, said)
		}
	}
}

// A segment that carries nothing while all links are up, as when a spanning tree changes, makes
// each node alone. Not each of them writes a claim for each address.
func TestMachineAloneWritesLittle(t *testing.T) {
	for _, nodes := range []int{5, 10, 20} {
		w := together(t, nodes, 20, nil)
		if err := w.run(10*time.Second, nil); err != nil {
			t.Fatal(err)
		}
		for _, a := range w.nodes {
			for _, b := range w.nodes {
				w.blocked[[2]int{a.index, b.index}] = true
			}
		}
		w.writes = 0
		if err := w.run(2*time.Second, nil); err != nil {
			t.Fatal(err)
		}
		perAddress := float64(w.writes) / float64(len(w.addresses))
		clear(w.blocked)
		if err := w.run(calm, nil); err != nil {
			t.Fatal(err)
		}
		if err := w.promised(); err != nil {
			t.Errorf("of %d nodes: %v", nodes, err)
		}
		if perAddress > 4 {
			t.Errorf("%d nodes write %.1f claims for each address in 2 s, want at most 4", nodes, perAddress)
		}
	}
}

// A relay ends when its node may no longer be on the segment, or may not own the address any
// longer.
func TestMachineRelayOfStrangerEnds(t *testing.T) {
	for name, end := range map[string]func(w *world, n *simNode, other string){
		"no candidate": func(w *world, n *simNode, other string) {
			n.m.SetDesired(n.local(), w.addresses[0], Desired{Announced: true, Candidates: []string{n.name}})
		},
		"not a neighbor": func(w *world, n *simNode, other string) {
			delete(n.m.peers.peers, other)
			n.m.SetNeighbors(n.local(), map[string]bool{"somebody else": true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, owner, other := ownerAndOther(t)
			w.blocked[[2]int{owner.index, other.index}], w.blocked[[2]int{other.index, owner.index}] = true, true
			w.pass(t, 3*time.Second)
			relayer, node := other, owner
			if owner.m.stateOf(keyOf(w.addresses[0])).relayed.relayed {
				relayer, node = owner, other
			}
			if !relayer.m.stateOf(keyOf(w.addresses[0])).relayed.relayed {
				t.Fatal("no node relays the other's claim")
			}
			end(w, relayer, node.name)
			relayer.act()
			w.pass(t, 2*time.Second)
			if !relayer.answering(w.addresses[0]) {
				t.Error("nobody answers on this side")
			}
		})
	}
}

// When a segment carries messages again before anybody has claimed anything, nothing moves.
func TestMachineShortOutageMovesNothing(t *testing.T) {
	for _, nodes := range []int{4, 10} {
		w := together(t, nodes, 40, nil)
		for _, a := range w.nodes {
			for _, b := range w.nodes {
				w.blocked[[2]int{a.index, b.index}] = true
			}
		}
		if err := w.run(450*time.Millisecond, nil); err != nil {
			t.Fatal(err)
		}
		before := w.moves
		clear(w.blocked)
		if err := w.run(calm, nil); err != nil {
			t.Fatal(err)
		}
		if err := w.promised(); err != nil || w.moves != before {
			t.Errorf("of %d nodes: %d moves, %v; want none", nodes, w.moves-before, err)
		}
	}
}

// A peer that announces an address of an offered address has taken it, even if we never hear its
// claim.
func TestMachineSighted(t *testing.T) {
	w, owner, other := ownerAndOther(t)
	addr := w.addresses[0]
	owner.m.Sighted(addr, other.name)
	if !owner.m.Owns(addr) {
		t.Error("lost to an announcement without having offered it")
	}
	w.blocked[[2]int{owner.index, other.index}] = true // so that the other does not take it
	owner.state = Leaving
	owner.act()
	if !owner.m.Owns(addr) {
		t.Fatal("lost before another node took it")
	}
	owner.m.Sighted(addr, other.name)
	if owner.m.Owns(addr) {
		t.Error("still owned after a peer announced what was offered")
	}
}
