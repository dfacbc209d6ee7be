// Package soak has the parts of a soak that need no lab: which faults and changes come when, what
// an address's answers say of it, what is left over at the end, and the plot. `make soak` runs them
// on the lab; see e2e/release/soak_test.go.
//
// Begin with plan.go.
package soak

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Kind is a kind of fault, as far as the choice depends on it.
type Kind struct {
	Name string
	// Deaf: some nodes do not hear each other for a while, so that several may answer.
	Deaf bool
	// Dark: nobody is heard for a while.
	Dark bool
	// NoSlices: new Services get no EndpointSlices for a while, so that those of policy Local have no
	// candidate.
	NoSlices bool
	// NoAPI: nobody reaches the API server.
	NoAPI bool
	// ByAPI: it is caused and ended by the API.
	ByAPI bool
	// Router: it strikes the router, one such fault at a time.
	Router bool
	// NoRoutes: the router forgets its routes.
	NoRoutes bool
	// Alone: no other fault comes with it.
	Alone bool
	// AtLeast is how long it must last to show anything.
	AtLeast time.Duration
	// Apart is how many rounds a node has without it between two with it.
	Apart int
}

// Strike is one fault.
type Strike struct {
	Kind Kind
	Node string
}

// Change is what is done to objects while faults last.
type Change struct {
	Name string
	// Node is the node that it is about, of those that are about one.
	Node string
	// Choice is a random number for what is left to choose.
	Choice uint64
}

// Round is one or two faults at once, and what changes while they last.
type Round struct {
	Number  int
	Strikes []Strike
	Changes []Change
	Lasts   time.Duration
}

// The names of changes. Those in pairs come and go.
const (
	ServicesReplaced = "Services are replaced"
	BurstComes       = "a burst of Services comes"
	BurstGoes        = "the burst of Services goes"
	PoolComes        = "a pool comes, with Services"
	PoolGoes         = "the pool goes"
	NodeLabeled      = "a label takes a node out of the announcement"
	NodeUnlabeled    = "the label is removed"
	TwinComes        = "a second SegmentAnnouncement comes"
	TwinGoes         = "the second SegmentAnnouncement goes"
	Rebalanced       = "addresses are asked to go where they belong"
	RoutesChanged    = "the routes' attributes change"
	SteeringOff      = "steering is turned off"
	SteeringOn       = "steering is turned on"
	PodsReplaced     = "the application's Pods are replaced"
)

// pairs has what ends each change that lasts.
var pairs = map[string]string{
	BurstComes: BurstGoes, PoolComes: PoolGoes, NodeLabeled: NodeUnlabeled, TwinComes: TwinGoes, SteeringOff: SteeringOn,
}

// first are the changes that are possible at any time, and those that begin something.
var first = []string{
	ServicesReplaced, BurstComes, PoolComes, NodeLabeled, TwinComes, Rebalanced, RoutesChanged, SteeringOff, PodsReplaced,
}

// Plan is the order of faults and changes that follows from a seed. It does not depend on what
// happens, so that the seed repeats it.
type Plan struct {
	chance *rand.Rand
	nodes  []string
	kinds  []Kind
	rounds int
	open   map[string]bool // changes that are to be ended
	out    string          // the node that the label takes out
	struck map[Strike]int  // in which round, the last time
}

// NewPlan returns the plan of a seed. There must be three nodes at least: two may be struck, or one
// struck while another is taken out, and one is to be well.
func NewPlan(seed uint64, nodes []string, kinds []Kind) *Plan {
	return &Plan{
		chance: rand.New(rand.NewPCG(seed, 0)), nodes: nodes, kinds: kinds,
		open: map[string]bool{}, struck: map[Strike]int{},
	}
}

// Next returns the next round.
func (p *Plan) Next() Round {
	p.rounds++
	r := Round{Number: p.rounds, Lasts: 500*time.Millisecond + time.Duration(p.chance.Int64N(int64(4*time.Second)))}
	p.strike(&r)
	if !r.Has(func(k Kind) bool { return k.NoAPI }) {
		for range 1 + p.chance.IntN(2) {
			r.Changes = append(r.Changes, p.change(r))
		}
	}
	return r
}

func (p *Plan) strike(r *Round) {
	victims := 1 + p.chance.IntN(3)/2 // two in a third of all rounds
	for _, n := range p.chance.Perm(len(p.nodes)) {
		if len(r.Strikes) == victims || p.out != "" && len(r.Strikes) > 0 {
			break
		}
		kind := p.kinds[p.chance.IntN(len(p.kinds))]
		for p.isTooSoon(Strike{kind, p.nodes[n]}) {
			kind = p.kinds[p.chance.IntN(len(p.kinds))]
		}
		if p.nodes[n] == p.out || len(r.Strikes) > 0 && !together(r.Strikes[0].Kind, kind) {
			continue
		}
		p.struck[Strike{kind, p.nodes[n]}] = r.Number
		r.Strikes = append(r.Strikes, Strike{Kind: kind, Node: p.nodes[n]})
		r.Lasts = max(r.Lasts, kind.AtLeast)
		if kind.Alone {
			break
		}
	}
	// Faults end in the order that is the reverse of this: what needs the API ends when it is back.
	slices.SortStableFunc(r.Strikes, func(a, b Strike) int { return number(a.Kind.NoAPI) - number(b.Kind.NoAPI) })
}

// isTooSoon reports whether a node had a fault lately that is to come seldom.
func (p *Plan) isTooSoon(s Strike) bool {
	last, had := p.struck[s]
	return had && p.rounds-last <= s.Kind.Apart
}

// together reports whether two faults may come at once.
func together(a, b Kind) bool {
	switch {
	case a.Alone || b.Alone || a.Name == b.Name:
		return false
	case a.NoAPI && b.NoAPI, a.NoAPI && b.ByAPI, a.ByAPI && b.NoAPI, a.Router && b.Router:
		return false
	}
	return true
}

func number(is bool) int {
	if is {
		return 1
	}
	return 0
}

// change chooses what can be done now. While two nodes are struck, none is taken out, and neither
// is one as another comes back. Pods are replaced only while two nodes are well: Services of policy
// Local need one that has a Pod.
func (p *Plan) change(r Round) Change {
	var possible []string
	for _, name := range first {
		begins := pairs[name] != ""
		switch {
		case r.does(name) || begins && r.does(pairs[name]): // once in a round: kubectl refuses some at once
		case begins && p.open[name]:
			possible = append(possible, pairs[name])
		case name == NodeLabeled && (len(r.Strikes) > 1 || r.does(NodeUnlabeled) || r.does(PodsReplaced)):
		case name == PodsReplaced && (len(r.Strikes) > 1 || p.out != "" || r.does(NodeUnlabeled)):
		default:
			possible = append(possible, name)
		}
	}
	c := Change{Name: possible[p.chance.IntN(len(possible))], Choice: p.chance.Uint64()}
	switch c.Name {
	case NodeLabeled:
		for _, n := range p.chance.Perm(len(p.nodes)) {
			if p.nodes[n] != r.Strikes[0].Node {
				c.Node = p.nodes[n]
			}
		}
		p.out = c.Node
	case NodeUnlabeled:
		c.Node, p.out = p.out, ""
	}
	for begins, ends := range pairs {
		switch c.Name {
		case begins:
			p.open[begins] = true
		case ends:
			delete(p.open, begins)
		}
	}
	return c
}

// Finish returns the changes that end what others began.
func (p *Plan) Finish() []Change {
	var all []Change
	for _, name := range first {
		if p.open[name] {
			all = append(all, Change{Name: pairs[name], Node: p.out})
		}
	}
	clear(p.open)
	p.out = ""
	return all
}

// Has reports whether one of the faults is so.
func (r Round) Has(is func(Kind) bool) bool {
	return slices.ContainsFunc(r.Strikes, func(s Strike) bool { return is(s.Kind) })
}

// does reports whether the round has a change.
func (r Round) does(name string) bool {
	return slices.ContainsFunc(r.Changes, func(c Change) bool { return c.Name == name })
}

// String says what happens in the round.
func (r Round) String() string {
	var parts []string
	for _, s := range r.Strikes {
		parts = append(parts, s.Node+": "+s.Kind.Name)
	}
	for _, c := range r.Changes {
		parts = append(parts, strings.TrimSpace(c.Node+" "+c.Name))
	}
	return fmt.Sprintf("round %d, %s; for %s", r.Number, strings.Join(parts, "; "), r.Lasts.Round(time.Millisecond))
}

// How long an address may have no answer, on a machine that is very busy, and for how long two
// nodes may answer while it moves.
const (
	// GapAtMost is where one node is struck: a dead one is missed after 0.3 s.
	GapAtMost = 3 * time.Second
	// GapOfTwo is where two are: who is left may know of a dead owner by the API alone, which takes
	// 6 s in the lab to call its node not ready.
	GapOfTwo = 15 * time.Second
	// Handover is three intervals, in which a claim that was lost is noticed and sent again.
	Handover = 300 * time.Millisecond
)

// Gap returns how long an address may have no answer in the round.
func (r Round) Gap() time.Duration {
	gap := GapAtMost
	if len(r.Strikes) > 1 {
		gap = GapOfTwo
	}
	if r.Has(func(k Kind) bool { return k.Dark || k.NoSlices }) {
		gap += r.Lasts
	}
	return gap
}

// RouteGap returns how long the router may have no route to an address; 0: it is not judged.
func (r Round) RouteGap() time.Duration {
	if r.Has(func(k Kind) bool { return k.NoRoutes }) {
		return 0
	}
	if r.Has(func(k Kind) bool { return k.Dark }) { // a new Service is not heard of
		return GapOfTwo + r.Lasts
	}
	return GapOfTwo
}
