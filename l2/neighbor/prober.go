package neighbor

import (
	"container/heap"
	"net/netip"
	"slices"
	"time"
)

// Before an address is answered for that nobody is known to answer for, the segment is asked three times who holds it
// (RFC 5227 section 2.1.1, RFC 4862 section 5.4). The RFCs wait a second or more between probes; here a client waits, and
// a host on the same segment answers within a millisecond.
const (
	probePause  = 60 * time.Millisecond // between two probes
	probeListen = 80 * time.Millisecond // from the last probe to the verdict
)

// stage is how far the probing of an address has come. At each it waits for its time.
type stage uint8

const (
	firstProbe stage = iota // or resting until then, after a conflict
	secondProbe
	thirdProbe
	listening // for the answer to the third
	judged    // whoever was told so has yet to say what follows
)

// prober asks for others that hold addresses. It has no clock and no socket: times are arguments and never go
// back; who calls it sends the probes, tells it what it hears, and judges.
type Prober struct {
	latest map[netip.Addr]*Probe
	asks   probeQueue // what is to be asked
	ends   probeQueue // what is to be judged
	serial uint64
	idle   int // how many addresses rest
}

type Probe struct {
	Addr     netip.Addr
	stage    stage
	at       time.Time // when it goes on
	resting  bool
	Heard    []Sighting // in the present attempt, one for each MAC and use
	Contests int        // attempts in a row that ended since another host probes for the address too
}

const maxHeard = 8 // are remembered of one attempt: one is enough for a conflict

func NewProber() *Prober { return &Prober{latest: make(map[netip.Addr]*Probe)} }

// begin asks for an address, unless that is so already.
func (p *Prober) Begin(now time.Time, addr netip.Addr) {
	if _, ok := p.latest[addr]; ok {
		return
	}
	x := &Probe{Addr: addr}
	p.latest[addr] = x
	p.ask(x, firstProbe, now)
}

// resting is how many addresses rest.
func (p *Prober) Resting() int { return p.idle }

// end stops asking for an address.
func (p *Prober) End(addr netip.Addr) {
	if x, ok := p.latest[addr]; ok {
		p.wake(x)
		delete(p.latest, addr)
	}
}

// rest begins another attempt at a judged address after a while.
func (p *Prober) Rest(now time.Time, x *Probe, long time.Duration) {
	x.Heard, x.resting = nil, true
	p.idle++
	p.ask(x, firstProbe, now.Add(long))
}

// listen has a judged address judged again a little later.
func (p *Prober) JudgeLater(x *Probe, at time.Time) {
	x.stage, x.at = listening, at
	p.push(&p.ends, x)
}

// wake ends an address's rest.
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

// hears reports whether what is heard of the address matters: it is asked for, and does not rest.
func (p *Prober) Hears(addr netip.Addr) bool {
	x, ok := p.latest[addr]
	return ok && !x.resting
}

// sighted takes another host's use of an address, a probe for it included. The host must not be this node.
func (p *Prober) Sighted(seen Sighting) {
	x, ok := p.latest[seen.Addr]
	if ok && !x.resting && len(x.Heard) < maxHeard && !slices.Contains(x.Heard, seen) {
		x.Heard = append(x.Heard, seen)
	}
}

// due returns addresses to send a probe for now, at most limit of them. The time of what follows counts from now, so that
// a loop that is late still listens as long.
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

// verdicts returns what was asked for and listened for long enough. What the sockets have received until now must have
// been told to sighted before. Each is to be ended, or rested, or listened for again.
func (p *Prober) Verdicts(now time.Time) []*Probe {
	var list []*Probe
	for x := p.pop(&p.ends, now); x != nil; x = p.pop(&p.ends, now) {
		x.stage = judged
		list = append(list, x)
	}
	return list
}

// pop takes the first out of a queue whose time has come; nil: none.
func (p *Prober) pop(q *probeQueue, now time.Time) *Probe {
	if p.trim(q); len(*q) == 0 || now.Before((*q)[0].at) {
		return nil
	}
	return heap.Pop(q).(probeStep).Probe
}

// trim drops what is void from a queue's front.
func (p *Prober) trim(q *probeQueue) {
	for len(*q) > 0 && p.void((*q)[0]) {
		heap.Pop(q)
	}
}

// void reports whether a step's probing has ended or gone on.
func (p *Prober) void(s probeStep) bool {
	return p.latest[s.Addr] != s.Probe || s.Probe.stage != s.stage || !s.Probe.at.Equal(s.at)
}

// next is when due or verdicts has something to say; the zero time: never.
func (p *Prober) Next() time.Time {
	var first time.Time
	for _, q := range []*probeQueue{&p.asks, &p.ends} {
		if p.trim(q); len(*q) > 0 && (first.IsZero() || (*q)[0].at.Before(first)) {
			first = (*q)[0].at
		}
	}
	return first
}

// probeStep is void when its probing has gone on to another stage or time.
type probeStep struct {
	*Probe
	at     time.Time
	stage  stage
	serial uint64
}

// probeQueue has the first due in front, and of those due at once the first that came.
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
	old[len(old)-1] = probeStep{} // nothing that is held by it stays
	*q = old[:len(old)-1]
	return last
}
