package l2

import (
	"net/netip"
	"slices"
	"time"
)

// Before an address is announced for the first time, the segment is asked three times who holds it (RFC 5227 section
// 2.1.1, RFC 4862 section 5.4). The RFCs wait a second or more between probes; here a client waits, and a host on the
// same segment answers within a millisecond.
const (
	probePause = 60 * time.Millisecond // between two probes
	probeEar   = 80 * time.Millisecond // from the last probe to the verdict
	probeAgain = 10 * time.Second      // from a conflict to the next probes
)

// stage is how far the probing of a group has come. At each it waits for its time.
type stage uint8

const (
	firstProbe stage = iota
	secondProbe
	thirdProbe
	listening // for the answer to the third
	resting   // after a conflict
	stages
)

// prober asks for foreign holders of groups' addresses. It has no clock and no socket: times are arguments and never go
// back; who calls it sends the probes, and tells it what it hears.
type prober struct {
	// One queue for each stage; within one, all entries wait equally long, so the first due is in front.
	queues [stages][]probeStep
	latest map[string]*probing       // by group
	asking map[netip.Addr][]*probing // from the first probe to the verdict
	hit    []probeStep               // conflicts not yet told
}

type probing struct {
	group string
	addrs []netip.Addr
	stage stage
	foe   sighting // of the present attempt; no valid address: none
}

// probeStep is void when its probing has been replaced or has moved on to another stage.
type probeStep struct {
	*probing
	at    time.Time
	stage stage
}

// verdict is what probing came to. A group that is free is probed no more; one that is not is probed again
// later, and judged again.
type verdict struct {
	group string
	free  bool
	foe   sighting // unless free: who uses which of the addresses
}

func newProber() *prober {
	return &prober{latest: make(map[string]*probing), asking: make(map[netip.Addr][]*probing)}
}

// begin asks for the addresses of a group, in place of what was asked for it before.
func (p *prober) begin(now time.Time, group string, addrs []netip.Addr) {
	p.end(group)
	x := &probing{group: group, addrs: addrs}
	p.latest[group] = x
	p.ask(now, x)
}

func (p *prober) ask(now time.Time, x *probing) {
	x.foe = sighting{}
	for _, a := range x.addrs {
		p.asking[a] = append(p.asking[a], x)
	}
	p.advance(x, firstProbe, now)
}

// end stops asking for a group.
func (p *prober) end(group string) {
	if x, ok := p.latest[group]; ok {
		p.hush(x)
		delete(p.latest, group)
	}
}

// hush makes what is heard of the addresses no concern of x.
func (p *prober) hush(x *probing) {
	for _, a := range x.addrs {
		rest := slices.DeleteFunc(p.asking[a], func(y *probing) bool { return y == x })
		if p.asking[a] = rest; len(rest) == 0 {
			delete(p.asking, a)
		}
	}
}

func (p *prober) advance(x *probing, to stage, at time.Time) {
	x.stage = to
	p.queues[to] = append(p.queues[to], probeStep{x, at, to})
}

// holds reports whether the group is being probed, or rests after a conflict: it must not be announced.
func (p *prober) holds(group string) bool {
	_, ok := p.latest[group]
	return ok
}

// sighted takes another host's use of an address, a probe for it included. The host must be neither this node nor one
// of its peers. The verdict on the groups that ask for the address is then ready.
func (p *prober) sighted(now time.Time, seen sighting) {
	for _, x := range p.asking[seen.addr] {
		if !x.foe.addr.IsValid() {
			x.foe = seen
			p.hit = append(p.hit, probeStep{x, now, x.stage})
		}
	}
}

// due returns addresses to send a probe for now: those of whole groups, about limit of them. The time of what follows counts
// from now, so that a loop that is late still listens as long.
func (p *prober) due(now time.Time, limit int) []netip.Addr {
	for x := p.pop(resting, now); x != nil; x = p.pop(resting, now) {
		p.ask(now, x)
	}
	var addrs []netip.Addr
	for s := firstProbe; s <= thirdProbe; s++ {
		for len(addrs) < limit {
			x := p.pop(s, now)
			if x == nil {
				break
			}
			if x.foe.addr.IsValid() {
				continue // its verdict is ready
			}
			addrs = append(addrs, x.addrs...)
			if s == thirdProbe {
				p.advance(x, listening, now.Add(probeEar))
			} else {
				p.advance(x, s+1, now.Add(probePause))
			}
		}
	}
	return addrs
}

// pop takes the first probing out of a stage's queue whose time has come; nil: none.
func (p *prober) pop(s stage, now time.Time) *probing {
	for q := &p.queues[s]; len(*q) > 0; {
		step := (*q)[0]
		if p.void(step) {
			*q = (*q)[1:]
			continue
		}
		if now.Before(step.at) {
			return nil
		}
		*q = (*q)[1:]
		return step.probing
	}
	return nil
}

func (p *prober) void(s probeStep) bool {
	return p.latest[s.group] != s.probing || s.probing.stage != s.stage
}

// verdicts returns what is known since the last call: conflicts as soon as one is heard, freedom when the time to hear of one
// is over. What the sockets have received until now must have been told to sighted before.
func (p *prober) verdicts(now time.Time) []verdict {
	var list []verdict
	for _, step := range p.hit {
		if p.latest[step.group] != step.probing {
			continue
		}
		p.hush(step.probing)
		p.advance(step.probing, resting, now.Add(probeAgain))
		list = append(list, verdict{group: step.group, foe: step.foe})
	}
	p.hit = nil
	for x := p.pop(listening, now); x != nil; x = p.pop(listening, now) {
		p.end(x.group)
		list = append(list, verdict{group: x.group, free: true})
	}
	return list
}

// next is when due or verdicts has something to say; the zero time: never.
func (p *prober) next() time.Time {
	var first time.Time
	consider := func(t time.Time) {
		if first.IsZero() || t.Before(first) {
			first = t
		}
	}
	if len(p.hit) > 0 {
		consider(p.hit[0].at)
	}
	for n := range p.queues {
		q := &p.queues[n]
		for len(*q) > 0 && p.void((*q)[0]) {
			*q = (*q)[1:]
		}
		if len(*q) > 0 {
			consider((*q)[0].at)
		}
	}
	return first
}
