package l2

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/liveness"
	"github.com/berth-lb/berth/l2/packet"
)

const (
	// resyncInterval is the safety net under the kernel's notifications.
	resyncInterval = 30 * time.Second
	// debounce gathers notifications that come in bunches, as those of pods' interfaces do.
	debounce = 10 * time.Millisecond
	// drainGrace is how much longer than the handover time a drain may take, because segments need
	// time to notice.
	drainGrace = 250 * time.Millisecond
)

var _ parent = (*Driver)(nil)

// follow keeps the subscription to the kernel's notifications alive until ctx ends.
func (d *Driver) follow(ctx context.Context) error {
	for {
		if err := d.system.watch(ctx, d.kick.Notify); err != nil {
			d.fail("", err)
		}
		d.kick.Notify()
		if async.Sleep(ctx, retryDelay) != nil {
			return nil
		}
	}
}

// supervise starts a segment for each interface that is wanted, tells it about its link, and ends
// segments that are not wanted any more.
func (d *Driver) supervise(ctx context.Context, tasks *errgroup.Group) error {
	ticker := time.NewTicker(resyncInterval)
	defer ticker.Stop()
	deadline := time.NewTimer(0)
	defer deadline.Stop()
	pass := liveness.Of(ctx, "layer 2 supervisor", liveness.Limit)
	defer pass.End()
	for {
		pass.Begin()
		links, err := d.system.links()
		if err != nil {
			d.fail("", err)
			deadline.Reset(retryDelay)
		} else {
			d.setFailure("")
			d.updateSegments(ctx, tasks, links)
		}
		pass.End()
		select {
		case <-ctx.Done():
			return nil
		case <-d.kick:
		case <-ticker.C:
		case <-deadline.C:
		}
		if left := d.checkDrained(); left > 0 {
			deadline.Reset(left)
		}
		if async.Sleep(ctx, debounce) != nil {
			return nil
		}
	}
}

// updateSegments starts and ends segments, and passes links on.
func (d *Driver) updateSegments(ctx context.Context, tasks *errgroup.Group, links []packet.Link) {
	d.mu.Lock()
	defer d.mu.Unlock()
	present := make(map[string]bool, len(links))
	for _, l := range links {
		home := slices.ContainsFunc(d.nodeAddresses(), func(a netip.Addr) bool {
			return slices.Contains(l.Addrs, a.Unmap())
		})
		if !home && !d.named(l.Name) {
			continue
		}
		present[l.Name] = true
		seg, ok := d.segments[l.Name]
		if !ok {
			d.startSegment(ctx, tasks, l, home)
			continue
		}
		was := seg.isHome()
		if seg.setLink(l, home); was != home {
			d.renew(l.Name)
			d.renew(d.twins[l.Name])
		}
	}
	for name, seg := range d.segments {
		if !present[name] {
			delete(d.segments, name)
			seg.cancel()
			d.renew(d.twins[name])
		}
	}
}

// renew replaces what a segment knows of addresses, if it is there: others may concern it now. d.mu
// is held.
func (d *Driver) renew(name string) {
	seg, ok := d.segments[name]
	if !ok {
		return
	}
	all := make(map[netip.Addr]Desired)
	for addr, desired := range d.desired {
		if d.concerns(seg, desired) {
			all[addr] = desired
		}
	}
	seg.setAllDesired(all)
}

// concerns reports whether an address is wanted on the interface of a segment, or on one that it
// serves the segment for. Whenever that changes but by Sync, renew is called. d.mu is held.
func (d *Driver) concerns(seg *segment, desired Desired) bool {
	home, others := seg.place()
	on := func(name string) bool {
		other, ok := d.segments[name]
		return concerns(desired, name, ok && other.isHome())
	}
	return desired.Announced && (concerns(desired, seg.name, home) || slices.ContainsFunc(others, on))
}

// nodeAddresses returns the addresses of this node. d.mu is held.
func (d *Driver) nodeAddresses() []netip.Addr {
	if own := d.nodes.addresses[d.config.Node]; len(own) > 0 {
		return own
	}
	return d.config.NodeAddresses
}

// startSegment starts the loop of a new segment. d.mu is held.
func (d *Driver) startSegment(ctx context.Context, tasks *errgroup.Group, l packet.Link, home bool) {
	ctx, cancel := context.WithCancel(ctx)
	name := l.Name
	seg := newSegment(&d.shared, d, name, cancel)
	seg.setLink(l, home)
	seg.setOthers(d.servedBy(name))
	seg.setNext(d.next)
	for _, said := range d.mirror {
		seg.setMirrored(said)
	}
	before := d.ended[name]
	d.ended[name] = seg.done
	d.segments[name] = seg
	d.renew(name)
	d.renew(d.twins[name])
	tasks.Go(func() error {
		defer close(seg.done)
		if before != nil {
			<-before // a former segment of this name: one at a time
		}
		seg.run(ctx)
		return nil
	})
}

// named reports whether an address is wanted on the interface by its name. d.mu is held.
func (d *Driver) named(ifname string) bool {
	for p := range d.patterns {
		if matches(p, ifname) {
			return true
		}
	}
	return false
}

// orders returns what every segment is told.
func (d *Driver) orders() orders {
	d.mu.Lock()
	defer d.mu.Unlock()
	return orders{
		state:        d.state,
		keys:         d.keys,
		capabilities: d.capabilities,
		contact:      d.contact,
		nodes:        d.nodes,
		round:        d.departure.round,
	}
}

// interfaceOf returns the name of the served interface with that MAC address, or "".
func (d *Driver) interfaceOf(mac [6]byte) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, seg := range d.segments {
		if p := seg.published.Load(); p != nil && slices.Equal(p.MAC, mac[:]) {
			return name
		}
	}
	return ""
}

// interfaceOfBoot returns the name of the served interface whose machine has that boot nonce, or
// "".
func (d *Driver) interfaceOfBoot(boot uint64) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, seg := range d.segments {
		if seg.boot == boot {
			return name
		}
	}
	return ""
}

// pair takes that two interfaces are on one segment. It says which of them serves it: the one that
// does so already, or else the one that something is wanted on, or else the first by name.
func (d *Driver) pair(name, other string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	first, second := name, other
	switch {
	case d.segments[name] == nil || d.segments[other] == nil:
		return
	case d.twins[other] == name:
	case d.twins[name] == other, d.twins[name] == "" && d.twins[other] == "" && d.comesBefore(other, name):
		first, second = other, name
	}
	if d.twins[first] != "" || d.twins[second] != "" && d.twins[second] != first {
		return // a third interface serves the segment of one of them
	}
	if d.twins[second] == "" {
		d.twins[second] = first
		d.segments[first].setOthers(d.servedBy(first))
		d.renew(first)
	}
	d.segments[second].setPaired(first)
}

// mirrored returns what the mirror says of a segment.
func (d *Driver) mirrored(segment string) []Claim {
	d.mu.Lock()
	defer d.mu.Unlock()
	var claims []Claim
	for key, said := range d.mirror {
		if key.segment == segment {
			claims = append(claims, said)
		}
	}
	return claims
}

// isPaired reports whether the other interface still serves the segment of this one.
func (d *Driver) isPaired(name, first string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.twins[name] == first
}

// comesBefore reports whether interface a is to serve the segment of a and b. d.mu is held.
func (d *Driver) comesBefore(a, b string) bool {
	if wa, wb := d.wants(a), d.wants(b); wa != wb {
		return wa
	}
	return a < b
}

// wants reports whether something is wanted on the interface. d.mu is held.
func (d *Driver) wants(ifname string) bool {
	home := d.segments[ifname].isHome()
	for _, desired := range d.desired {
		if concerns(desired, ifname, home) {
			return true
		}
	}
	return false
}

// unpair takes that no other interface serves the segment of this one.
func (d *Driver) unpair(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	first := d.twins[name]
	delete(d.twins, name)
	if seg, ok := d.segments[first]; ok {
		seg.setOthers(d.servedBy(first))
		d.renew(first)
	}
}

// servedBy returns the interfaces whose segment this one serves, by name. d.mu is held.
func (d *Driver) servedBy(first string) []string {
	var names []string
	for name, other := range d.twins {
		if other == first {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// home reports whether the interface holds a node address.
func (d *Driver) home(name string) bool {
	d.mu.Lock()
	seg, ok := d.segments[name]
	d.mu.Unlock()
	return ok && seg.isHome()
}

// segmentDrained takes that a segment has nothing left to hand over.
func (d *Driver) segmentDrained() { d.kick.Notify() }

// checkDrained closes the channel of the current departure when its time has come. It returns how
// long to wait until then at most; 0: there is nothing to wait for.
func (d *Driver) checkDrained() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.departure.drained:
		return 0
	default:
	}
	if !d.state.Departing() {
		return 0
	}
	left := d.config.Handover + drainGrace - time.Since(d.departure.began)
	for _, seg := range d.segments {
		if seg.drained.Load() != d.departure.round && left > 0 {
			return left
		}
	}
	close(d.departure.drained)
	return 0
}

// fail reports a failure on an interface or, with an empty name, of the driver as a whole.
func (d *Driver) fail(ifname string, err error) {
	d.config.Logger.Warn("layer 2 failed, will retry", "interface", ifname, "error", err)
	d.observed.Send(Observation{Time: time.Now(), Kind: Failure, Interface: ifname, Err: err})
	if ifname == "" {
		d.setFailure(err.Error())
	}
}

func (d *Driver) setFailure(text string) {
	d.mu.Lock()
	d.failure = text
	d.mu.Unlock()
}
