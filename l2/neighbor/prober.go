package neighbor

import (
	"container/heap"
	"net/netip"
	"slices"
	"time"
)

// Before this node answers for an address that nobody is known to answer for, it asks the segment
// three times which host has it (RFC 5227 section 2.1.1, RFC 4862 section 5.4). The RFCs wait a
// second or more between probes. Here a client waits, and a host on the same segment answers within
// a millisecond.
const (
	probePause  = 60 * time.Millisecond // between two probes
	probeListen = 80 * time.Millisecond // from the last probe to the verdict
)

// stage is how far the probing of an address has come. In each stage it waits for its time.
type stage uint8

const (
	firstProbe stage = iota // or resting until then, after a conflict
	secondProbe
	thirdProbe
	listening // for the answer to the third probe
	judged    // handed out by Verdicts, and not decided yet
)

// Prober asks for other hosts that have addresses. Times are arguments and never go back. The
// caller sends the probes, passes on what it hears, and judges.
type Prober struct {
	latest map[netip.Addr]*Probe
	asks   probeQueue // probes to be sent
	ends   probeQueue // addresses to be judged
	serial uint64
	idle   int // how many addresses rest
}

// Probe is the probing of one address.
type Probe struct {
	Addr     netip.Addr
	stage    stage
	at       time.Time // when it continues
	resting  bool
	Heard    []Sighting // in this attempt, one for each MAC and use
	Contests int        // consecutive attempts that ended because another host probed too
	Refused  time.Time  // when the first attempt ended because a peer had it
}

// maxHeard is how many sightings are kept of one attempt. One is enough for a conflict.
const maxHeard = 8

// NewProber returns a prober with nothing to probe.
func NewProber() *Prober { return &Prober{latest: make(map[netip.Addr]*Probe)} }

// Begin starts probing for an address, unless it is being probed already.
func (p *Prober) Begin(now time.Time, addr netip.Addr) {
	if _, ok := p.latest[addr]; ok {
		return
	}
	x := &Probe{Addr: addr}
	p.latest[addr] = x
	p.ask(x, firstProbe, now)
}

// Resting returns how many addresses rest.
func (p *Prober) Resting() int { return p.idle }

// End stops probing for an address.
func (p *Prober) End(addr netip.Addr) {
	if x, ok := p.latest[addr]; ok {
		p.wake(x)
		delete(p.latest, addr)
	}
}

// Rest starts another attempt at a judged address after a while.
func (p *Prober) Rest(now time.Time, x *Probe, long time.Duration) {
	x.Heard, x.resting = nil, true
	p.idle++
	p.ask(x, firstProbe, now.Add(long))
}

// JudgeLater has a judged address judged again a little later.
func (p *Prober) JudgeLater(x *Probe, at time.Time) {
	x.stage, x.at = listening, at
	p.push(&p.ends, x)
}

// wake ends the rest of an address.
func (p *Prober) wake(x *Probe) {
	if x.resting {
		x.resting = false
		p.idle--
	}
}

func (p *Prober) ask(x *Probe, to stage, at time.Time) {
	x.stage, x.at = to, at
	p.push(&p.asks, x)
}

func (p *Prober) push(q *probeQueue, x *Probe) {
	p.serial++
	heap.Push(q, probeStep{x, x.at, x.stage, p.serial})
}

// Hears reports whether sightings of the address matter: it is being probed, and does not rest.
func (p *Prober) Hears(addr netip.Addr) bool {
	x, ok := p.latest[addr]
	return ok && !x.resting
}

// Sighted takes another host's use of an address, including a probe for it. The host must not be
// this node.
func (p *Prober) Sighted(seen Sighting) {
	x, ok := p.latest[seen.Addr]
	if ok && !x.resting && len(x.Heard) < maxHeard && !slices.Contains(x.Heard, seen) {
		x.Heard = append(x.Heard, seen)
	}
}

// Due returns addresses to send a probe for now, at most limit of them. The next step is timed from
// now, so that a loop that is late still listens as long.
func (p *Prober) Due(now time.Time, limit int) []netip.Addr {
	var addrs []netip.Addr
	for len(addrs) < limit {
		x := p.pop(&p.asks, now)
		if x == nil {
			break
		}
		p.wake(x)
		addrs = append(addrs, x.Addr)
		if x.stage == thirdProbe {
			p.JudgeLater(x, now.Add(probeListen))
		} else {
			p.ask(x, x.stage+1, now.Add(probePause))
		}
	}
	return addrs
}

// Verdicts returns the probes whose listening time is over. For each of them the caller calls End,
// Rest or JudgeLater.
func (p *Prober) Verdicts(now time.Time) []*Probe {
	var list []*Probe
	for x := p.pop(&p.ends, now); x != nil; x = p.pop(&p.ends, now) {
		x.stage = judged
		list = append(list, x)
	}
	return list
}

// pop removes the first probe whose time has come from a queue; nil: none.
func (p *Prober) pop(q *probeQueue, now time.Time) *Probe {
	if p.trim(q); len(*q) == 0 || now.Before((*q)[0].at) {
		return nil
	}
	return heap.Pop(q).(probeStep).Probe
}

// trim removes void steps from the front of a queue.
func (p *Prober) trim(q *probeQueue) {
	for len(*q) > 0 && p.void((*q)[0]) {
		heap.Pop(q)
	}
}

// void reports whether a step's probe has ended or moved on.
func (p *Prober) void(s probeStep) bool {
	return p.latest[s.Addr] != s.Probe || s.Probe.stage != s.stage || !s.Probe.at.Equal(s.at)
}

// Next returns when Due or Verdicts has something to return; the zero time: never.
func (p *Prober) Next() time.Time {
	var first time.Time
	for _, q := range []*probeQueue{&p.asks, &p.ends} {
		if p.trim(q); len(*q) > 0 && (first.IsZero() || (*q)[0].at.Before(first)) {
			first = (*q)[0].at
		}
	}
	return first
}

// probeStep is void when its probe has moved on to another stage or time.
type probeStep struct {
	*Probe
	at     time.Time
	stage  stage
	serial uint64
}

// probeQueue has the step that is due first in front and, of steps due at once, the one that came
// first.
type probeQueue []probeStep

func (q probeQueue) Len() int { return len(q) }
func (q probeQueue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].serial < q[j].serial
}
func (q probeQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *probeQueue) Push(x any)   { *q = append(*q, x.(probeStep)) }
func (q *probeQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = probeStep{} // release what it refers to
	*q = old[:len(old)-1]
	return last
}
