// Package deadnodes knows which nodes are dead, long before Kubernetes calls their endpoints
// unready: those that were heard on a segment, are heard on none now, and whose kernel does not
// answer either. Where only the speaker has stopped, the kernel answers. Others tell of nodes that
// this one may not hear (package notice).
package deadnodes

import (
	"context"
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/tcpprobe"
)

const (
	askEvery = time.Second // a silent node
	// aheadFor is how long a node that did not answer when its message was overdue may take to fall
	// silent: an interval between messages of segments with a thousand nodes.
	aheadFor = 2 * time.Second
	// A node that answers as before for so many questions is asked ten times less often. But those
	// that tell all others of its death go on to ask one that answers: if each of hundreds did, it
	// would get as many connections each second.
	manyQuestions = 60
	// Those that do not tell ask a dead one ten times less often after so many already. They hear it,
	// or hear of it, when it is back.
	fewQuestions = 5
	// together is within which time nodes fall silent for one reason: this node does not hear.
	together = 10 * time.Second
	// staleAtMost is how old what See is told may be.
	staleAtMost = 5 * time.Second
	// rejoinsWithin is how long a node that heard nobody takes to hear all again, once it hears one: a
	// kernel that looks for a neighbor in vain tries again each second. Until then it often asks those
	// that do not answer.
	rejoinsWithin = 1500 * time.Millisecond
	rejoinsAsks   = 10 // times as often
	// bootsAtLeast is how long a node that boots does not answer at least. If several did not answer
	// together, for less than that, it is more likely that they were not reached.
	bootsAtLeast = 10 * time.Second
	// speakerAtMost is how long a speaker may take from when the kernel answers. There may be none.
	speakerAtMost = 2 * time.Minute
	// provenAfter is for how long a silent node must not answer while another one does, to be dead
	// whatever happens to others then. It is longer than a kernel looks for a neighbor in vain.
	provenAfter = 1500 * time.Millisecond
)

// Config of a Detector.
type Config struct {
	// Node is the name of this node.
	Node string
	// Addresses returns the addresses of a node by name; none if there is no such node.
	Addresses func(node string) []netip.Addr
	// Ports are TCP ports on which something listens on every node. One that refuses answers, too.
	Ports []uint16
}

// Detector knows which nodes are dead. Its methods may be called from any goroutine; none waits for
// the network.
type Detector struct {
	self    string
	exists  func(node string) bool
	answers func(ctx context.Context, node string) bool // its kernel
	every   time.Duration                               // between questions to a silent node
	changed async.Signal
	told    async.Signal
	news    async.Signal
	begun   async.Signal // there are silent nodes that are not asked yet

	mu    sync.Mutex
	heard map[string]map[string]bool // guarded by mu; interfaces by the node that is or was heard there
	// lost says since when a node is not heard on an interface any more. Guarded by mu.
	lost   map[string]map[string]time.Time
	silent map[string]*silentNode // guarded by mu
	// ahead are questions to nodes whose message is overdue, of which none was answered. Guarded by
	// mu.
	ahead map[string]*question
	// missing says since when See is not told of a node on an interface that counts as heard.
	missing map[[2]string]time.Time // guarded by mu
	// booted has the nodes that were dead and whose kernels answer, until their speakers are ready:
	// since when they do.
	booted map[string]time.Time // guarded by mu
	// stopped says when nodes last ceased to answer. Guarded by mu.
	stopped map[string]time.Time
	joined  time.Time // guarded by mu; when one was heard again after nobody was
	// mistaken is when nodes fell silent although that says nothing about them. Guarded by mu.
	mistaken time.Time
	looked   time.Time // guarded by mu; when lookAgain did
	// far are nodes that others call silent, or that do not answer this one's watch. Noticed says when
	// such a node answered last, or was first asked. Both have nothing to do with what this node hears
	// on segments. Guarded by mu.
	far     map[string]*farNode
	noticed map[string]time.Time
	wards   map[string]*ward // guarded by mu; those that this node watches
	cutOff  bool             // guarded by mu; nobody who watches this node reaches it
}

// silentNode is a node that is heard on no interface any more.
type silentNode struct {
	asked   bool         // by a goroutine
	look    async.Signal // has that goroutine look now
	suspect bool         // nothing is known that speaks against its death
	dead    bool         // its kernel does not answer
	answers bool         // its kernel did, the last time
	probed  bool         // its kernel was asked at least once
	// witnessed is since when another node has answered each time that this one did not, and proven
	// that it did so for long: it is not this node that is cut off.
	witnessed time.Time
	proven    bool
	noes      int // questions in a row without an answer
	since     time.Time
	on        []string // interfaces on which it was heard before, ascending
}

// New returns a Detector that has heard nobody.
func New(c Config) *Detector {
	d := newDetector(func(ctx context.Context, node string) bool {
		return tcpprobe.Answers(ctx, c.Addresses(node), c.Ports)
	})
	d.self = c.Node
	d.exists = func(node string) bool { return len(c.Addresses(node)) > 0 }
	return d
}

func newDetector(answers func(context.Context, string) bool) *Detector {
	return &Detector{
		answers: answers, every: askEvery, changed: async.NewSignal(), told: async.NewSignal(),
		begun: async.NewSignal(), news: async.NewSignal(), exists: func(string) bool { return true },
		far: map[string]*farNode{}, noticed: map[string]time.Time{}, wards: map[string]*ward{},
		heard: map[string]map[string]bool{}, lost: map[string]map[string]time.Time{},
		silent: map[string]*silentNode{}, ahead: map[string]*question{}, booted: map[string]time.Time{},
		stopped: map[string]time.Time{},
	}
}

// Changed has a value when Dead, Suspects, Lost or Alone returns something else.
func (d *Detector) Changed() <-chan struct{} { return d.changed }

// notify tells that something changed.
func (d *Detector) notify() {
	d.changed.Notify()
	d.tell()
}

// tell tells that Silences, News or Serves returns something else.
func (d *Detector) tell() {
	d.told.Notify()
	d.news.Notify()
}

// Dead returns the nodes that are silent, and whose kernel does not answer.
func (d *Detector) Dead() map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	dead := map[string]bool{}
	for node, s := range d.silent {
		if s.dead {
			dead[node] = true
		}
	}
	for node, f := range d.far {
		if f.dead {
			dead[node] = true
		}
	}
	return dead
}

// Suspects returns the nodes that fell silent without a word, at once and until their kernel
// answers, beside those that are dead, and those that were and whose speaker is not ready yet: if
// they boot, they lack what a speaker and kube-proxy make. If several nodes fell silent together,
// and no other is heard, none of them is suspected: it is more likely this node that does not hear.
func (d *Detector) Suspects() map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	suspects, believed := map[string]bool{}, d.believes()
	for node, s := range d.silent {
		if s.proven || (s.suspect || s.dead) && believed(s.since) {
			suspects[node] = true
		}
	}
	for node, since := range d.booted {
		if believed(since) {
			suspects[node] = true
		}
	}
	for node, f := range d.far {
		if (f.suspect || f.dead || f.boots) && believed(f.since) {
			suspects[node] = true
		}
	}
	return suspects
}

// Lost returns those of the suspects that do not serve what they served before: the dead ones, and
// those that were and whose speaker is not ready yet.
func (d *Detector) Lost() map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	lost, believed := map[string]bool{}, d.believes()
	for node, s := range d.silent {
		if s.proven || s.dead && believed(s.since) {
			lost[node] = true
		}
	}
	for node, since := range d.booted {
		if believed(since) {
			lost[node] = true
		}
	}
	for node, f := range d.far {
		if (f.dead || f.boots) && believed(f.since) {
			lost[node] = true
		}
	}
	return lost
}

// deaf reports whether it is more likely this node that does not hear, or did not until a moment
// ago. It needs the lock.
func (d *Detector) deaf() bool {
	_, n := d.silentTogether()
	return d.alone() && n > 1 || d.justJoined()
}

// believes returns whether it says something about another node that it fell silent, died or booted
// at some time. It does not if about then it was more likely this one that did not hear. It needs
// the lock, also when it is called.
func (d *Detector) believes() func(time.Time) bool {
	last, n := d.silentTogether()
	switch {
	case d.alone() && n > 1:
	case d.justJoined():
		last = d.mistaken
	default:
		return func(time.Time) bool { return true }
	}
	return func(at time.Time) bool { return last.Sub(at) > together }
}

// justJoined reports whether this node heard nobody until a moment ago. It needs the lock.
func (d *Detector) justJoined() bool {
	return !d.joined.IsZero() && time.Since(d.joined) < rejoinsWithin
}

// Alone reports whether all nodes are silent that were ever heard, and neither their kernels nor
// nodes that this one watches answer, or if none was ever heard, whether CutOff is noted: they may
// think that it is this one that is dead.
func (d *Detector) Alone() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.alone()
}

// alone needs the lock.
func (d *Detector) alone() bool {
	if d.hearsAny() {
		return false
	}
	for _, s := range d.silent {
		if s.answers {
			return false
		}
	}
	for _, f := range d.far {
		if f.answers {
			return false
		}
	}
	return d.cutOff || len(d.heard) > 0 && !d.reaches()
}

// hearsAny reports whether a node is heard. It needs the lock.
func (d *Detector) hearsAny() bool {
	for _, on := range d.heard {
		if len(on) > 0 {
			return true
		}
	}
	return false
}

// silentTogether returns when the last node fell silent, and counts those that did about then. It
// needs the lock.
func (d *Detector) silentTogether() (last time.Time, n int) {
	for node, s := range d.silent {
		if d.heard[node] != nil && s.since.After(last) {
			last = s.since
		}
	}
	for node, s := range d.silent {
		if d.heard[node] != nil && last.Sub(s.since) <= together {
			n++
		}
	}
	return last, n
}

// Heard notes that a node is heard on an interface.
func (d *Detector) Heard(node, on string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hear(node, on)
}

// hear needs the lock.
func (d *Detector) hear(node, on string) {
	wasAlone := d.alone()
	if wasAlone {
		d.rejoins()
	}
	if d.heard[node] == nil {
		d.heard[node] = map[string]bool{}
	}
	d.heard[node][on] = true
	delete(d.lost[node], on)
	s := d.silent[node]
	if s != nil {
		delete(d.silent, node)
		s.look.Notify()
		if d.hasBooted(node, s) {
			d.boots(node)
		}
		d.lookAgain()
	}
	if f := d.far[node]; f != nil {
		d.forget(node, f)
		if f.dead || f.boots {
			d.boots(node) // until it says that it is ready
		}
	}
	if s != nil || wasAlone {
		d.notify()
	}
}

// rejoins notes that one is about to be heard, or answers, after nobody did. If several fell silent
// together, it was this node that did not hear, so all are asked again at once. It needs the lock.
func (d *Detector) rejoins() {
	last, n := d.silentTogether()
	if n > 1 {
		d.join(last)
	}
}

// join notes that what this node knows of others since then may be wrong. It needs the lock.
func (d *Detector) join(since time.Time) {
	if !d.justJoined() || since.Before(d.mistaken) {
		d.mistaken = since
	}
	d.joined = time.Now()
	time.AfterFunc(rejoinsWithin, d.notify)
	d.lookAgain()
}

// lookAgain has all be asked at once that are asked, unless they just were: what ended for one may
// have ended for others. It needs the lock.
func (d *Detector) lookAgain() {
	if now := time.Now(); now.Sub(d.looked) >= d.every/rejoinsAsks {
		d.looked = now
	} else {
		return
	}
	for _, s := range d.silent {
		s.look.Notify()
	}
	for _, f := range d.far {
		f.look.Notify()
	}
}

// hasBooted reports whether a silent node that answers now, or is heard, has nothing that it had.
// It needs the lock.
func (d *Detector) hasBooted(node string, s *silentNode) bool {
	if s.noes < 2 { // a packet was lost, or this node was slow
		return false
	}
	stopped := d.stopped[node]
	if time.Since(stopped) >= bootsAtLeast {
		return true
	}
	for other, at := range d.stopped {
		if other != node && at.Sub(stopped).Abs() <= together {
			return false
		}
	}
	return true
}

// See is told which nodes are heard on which interfaces, and which of them are ready, and makes
// good what Heard, Silent and Ready were not called for, as with a segment that ended. What it is
// told may be some seconds old.
func (d *Detector) See(alive map[string]map[string]bool, ready map[string]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for node, interfaces := range alive {
		s, f := d.silent[node], d.far[node]
		if s != nil && time.Since(s.since) < staleAtMost || f != nil && time.Since(f.told) < staleAtMost {
			continue // it may be known by now that it fell silent
		}
		for on := range interfaces {
			if !d.heard[node][on] {
				d.hear(node, on)
			}
		}
	}
	for node := range ready {
		if since := d.booted[node]; !since.IsZero() && time.Since(since) >= staleAtMost {
			d.ready(node)
		}
	}
	now, missing := time.Now(), map[[2]string]time.Time{}
	for node, interfaces := range d.heard {
		before := len(interfaces)
		maps.DeleteFunc(interfaces, func(on string, _ bool) bool {
			if alive[node][on] {
				return false
			}
			since, ok := d.missing[[2]string{node, on}]
			if !ok {
				since = now
			}
			missing[[2]string{node, on}] = since
			if now.Sub(since) < staleAtMost {
				return false
			}
			d.lose(node, on)
			return true
		})
		if before > 0 && len(interfaces) == 0 {
			d.ask(node, false)
		}
	}
	d.missing = missing
}

// Miss is told which nodes are heard on which interfaces by what hears since a moment ago. It does
// not say who fell silent before, so all others are asked.
func (d *Detector) Miss(alive map[string]map[string]bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for node, interfaces := range d.heard {
		before := len(interfaces)
		maps.DeleteFunc(interfaces, func(on string, _ bool) bool {
			if alive[node][on] {
				return false
			}
			d.lose(node, on)
			return true
		})
		if before > 0 && len(interfaces) == 0 {
			d.ask(node, false)
		}
	}
}

// boots notes that the kernel of a node answers that was dead. It needs the lock.
func (d *Detector) boots(node string) {
	since := time.Now()
	d.booted[node] = since
	time.AfterFunc(speakerAtMost, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.booted[node] == since {
			delete(d.booted, node)
			d.notify()
		}
	})
}

// Ready notes that the speaker of a node says that it is ready, or that it announces nothing and
// the node serves.
func (d *Detector) Ready(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ready(node)
}

// ready needs the lock.
func (d *Detector) ready(node string) {
	if _, ok := d.booted[node]; ok {
		delete(d.booted, node)
		d.notify()
	}
}

// Silent notes that a node is not heard on an interface any more. Farewell: it said before that its
// speaker ends, so this says nothing about the node.
func (d *Detector) Silent(node, on string, farewell bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	interfaces, known := d.heard[node]
	if !known {
		return
	}
	if interfaces[on] {
		delete(interfaces, on)
		d.lose(node, on)
	}
	if len(interfaces) == 0 {
		d.ask(node, !farewell)
	}
}

// question is one to the kernel of a node.
type question struct {
	asked bool          // by a goroutine; guarded by the Detector's mu
	over  chan struct{} // closed when the node answered, or did not
}

// Overdue notes that a message of a node is overdue. It is asked now, so that no time is lost if it
// falls silent. If it answers, or does not fall silent, this says nothing.
func (d *Detector) Overdue(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.heard[node] == nil || d.silent[node] != nil {
		return
	}
	if q := d.ahead[node]; q != nil {
		select {
		case <-q.over: // of a message that was overdue before
		default:
			return
		}
	}
	d.ahead[node] = &question{over: make(chan struct{})}
	d.begun.Notify()
}

// askAhead asks a node that may be about to fall silent.
func (d *Detector) askAhead(ctx context.Context, node string, q *question) {
	answers := d.answers(ctx, node)
	if answers {
		d.withdraw(node, q)
	}
	close(q.over)
	if !answers && async.Sleep(ctx, aheadFor) == nil {
		d.withdraw(node, q)
	}
}

// withdraw has a question not count any longer.
func (d *Detector) withdraw(node string, q *question) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ahead[node] == q {
		delete(d.ahead, node)
	}
}

// unanswered reports whether the node did not answer when its message was overdue.
func (d *Detector) unanswered(ctx context.Context, node string) bool {
	of := func() *question {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.ahead[node]
	}
	q := of()
	if q == nil {
		return false
	}
	select {
	case <-q.over:
		return of() == q
	case <-ctx.Done():
		return false
	}
}

// Suspect notes that a process before this one thought that a node is dead. It counts until the
// node is heard, or answers.
func (d *Detector) Suspect(node string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case node == d.self:
	case d.heard[node] == nil:
		d.doubtFar(node, time.Now()) // that process may not have heard it, either
	case len(d.heard[node]) == 0:
		d.ask(node, true)
	default:
		d.notify() // who asks goes by that
	}
}

// ask has a silent node asked. The caller holds mu.
func (d *Detector) ask(node string, suspect bool) {
	s := d.silent[node]
	if s == nil {
		s = &silentNode{look: async.NewSignal(), since: time.Now(), on: d.lostLately(node)}
		d.silent[node] = s
		d.begun.Notify()
	} else {
		s.look.Notify()
	}
	s.suspect = suspect
	if !d.hearsAny() {
		d.lookAgain() // is it this node that does not hear?
	}
	d.notify()
}

// Keep forgets all nodes but those for which has is true.
func (d *Detector) Keep(has func(node string) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	maps.DeleteFunc(d.heard, func(node string, _ map[string]bool) bool { return !has(node) })
	maps.DeleteFunc(d.lost, func(node string, _ map[string]time.Time) bool { return !has(node) })
	maps.DeleteFunc(d.booted, func(node string, _ time.Time) bool { return !has(node) })
	maps.DeleteFunc(d.stopped, func(node string, _ time.Time) bool { return !has(node) })
	maps.DeleteFunc(d.noticed, func(node string, _ time.Time) bool { return !has(node) })
	maps.DeleteFunc(d.wards, func(node string, _ *ward) bool { return !has(node) })
	for node, f := range d.far {
		if !has(node) {
			d.forget(node, f)
		}
	}
	for node, s := range d.silent {
		if !has(node) {
			delete(d.silent, node)
			s.look.Notify()
			d.notify()
		}
	}
}

// Run asks silent nodes, each in a goroutine of its own, until the context ends.
func (d *Detector) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for {
		for node, s := range d.unasked() {
			group.Go(func() error { d.follow(ctx, node, s); return nil }) // ends with the silence, or ctx
		}
		select {
		case <-ctx.Done():
			return group.Wait()
		case <-d.begun:
		}
		for node, f := range d.unaskedFar() {
			group.Go(func() error { d.followFar(ctx, node, f); return nil }) // ends with the entry, or ctx
		}
		for node, w := range d.unaskedWards() {
			group.Go(func() error { d.reach(ctx, node, w); return nil }) // ends with the question
		}
		for node, q := range d.unaskedAhead() {
			group.Go(func() error { d.askAhead(ctx, node, q); return nil }) // ends after aheadFor
		}
	}
}

// unaskedAhead returns the questions that nobody asks yet. The caller does.
func (d *Detector) unaskedAhead() map[string]*question {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := map[string]*question{}
	for node, q := range d.ahead {
		if !q.asked {
			q.asked = true
			found[node] = q
		}
	}
	return found
}

// unasked returns the silent nodes that are not asked yet. The caller asks them.
func (d *Detector) unasked() map[string]*silentNode {
	d.mu.Lock()
	defer d.mu.Unlock()
	found := map[string]*silentNode{}
	for node, s := range d.silent {
		if !s.asked {
			s.asked = true
			found[node] = s
		}
	}
	return found
}

// follow asks a silent node until it is heard again.
func (d *Detector) follow(ctx context.Context, node string, s *silentNode) {
	last, same := false, 0
	for first := true; ; first = false {
		answers := !(first && d.unanswered(ctx, node)) && d.answers(ctx, node)
		if ctx.Err() != nil || !d.note(node, s, !answers) {
			return
		}
		if !answers {
			d.prove(ctx, s)
		}
		if same++; answers != last {
			last, same = answers, 0
		}
		var seldom bool
		if answers {
			seldom = same > manyQuestions && !d.mayTell(node, s)
		} else {
			seldom = same > manyQuestions || same >= fewQuestions && !d.mayTell(node, s)
		}
		await(ctx, s.look, d.pause(answers, seldom))
	}
}

// prove notes whether another node, which is heard, answers while a silent one does not. That it is
// heard is not enough: it may be for ten seconds without a hello.
func (d *Detector) prove(ctx context.Context, s *silentNode) {
	peer := d.witness(s)
	answers := peer != "" && d.answers(ctx, peer)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case !answers:
		s.witnessed = time.Time{}
	case s.witnessed.IsZero():
		s.witnessed = time.Now()
	case time.Since(s.witnessed) >= provenAfter:
		s.proven = true
		d.notify()
	}
}

// witness returns a node that is heard, if there is something to prove.
func (d *Detector) witness(s *silentNode) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s.proven {
		return ""
	}
	for peer, on := range d.heard {
		if len(on) > 0 {
			return peer
		}
	}
	return ""
}

// pause returns how long to wait between two questions to a node that answered the last one, or did
// not.
func (d *Detector) pause(answers, seldom bool) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case !answers && d.justJoined():
		return d.every / rejoinsAsks
	case seldom: // not all at the same time
		return 9*d.every + rand.N(2*d.every)
	}
	return d.every
}

// await waits for a signal, a pause, or the end of the context.
func await(ctx context.Context, look async.Signal, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-look:
	case <-timer.C:
	}
}

// note notes whether a silent node's kernel answered. It returns false if the node is not silent
// any more.
func (d *Detector) note(node string, s *silentNode, dead bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.silent[node] != s {
		return false
	}
	wasAlone := d.alone()
	switch {
	case dead:
		if s.noes++; s.noes == 1 {
			d.stopped[node] = time.Now()
		}
	case s.dead:
		if wasAlone {
			d.rejoins()
		}
		if d.hasBooted(node, s) {
			d.boots(node)
		}
		s.noes = 0
	}
	if !s.probed {
		s.probed = true
		d.tell()
	}
	if !dead {
		s.witnessed, s.proven = time.Time{}, false
	}
	if s.answers = !dead; d.alone() != wasAlone {
		d.notify()
	}
	if s.dead != dead || s.suspect && !dead {
		s.dead, s.suspect = dead, false
		d.notify()
	}
	return true
}
