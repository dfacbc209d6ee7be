package l2

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"path"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/internal/async"

	"github.com/berth-lb/berth/l2/packet"
)

const (
	// resync is the safety net under the kernel's notifications.
	resync = 30 * time.Second
	// settle gathers notifications that come in bunches, as pods' interfaces do.
	settle = 10 * time.Millisecond
	// retry is the pause before something that failed is tried again.
	retry = time.Second
	// grace is what a drain may take beyond the handover time, for segments to get to it.
	grace = 250 * time.Millisecond
)

// leave is one attempt to hand everything over.
type leave struct {
	round   uint64 // counts changes of state: a segment has drained for one of them
	began   time.Time
	drained chan struct{}
}

// randomNumber is one that nobody can foresee, never 0.
func randomNumber() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // documented never to fail
	return max(1, binary.BigEndian.Uint64(b[:]))
}

// follow keeps the subscription to the kernel's notifications alive until ctx ends.
func (d *Driver) follow(ctx context.Context) error {
	for {
		if err := d.system.watch(ctx, d.wakeSupervisor); err != nil {
			d.fail("", err)
		}
		d.wakeSupervisor()
		if async.Sleep(ctx, retry) != nil {
			return nil
		}
	}
}

// supervise gives each interface that is wanted a segment, tells it of its link, and ends those not wanted.
func (d *Driver) supervise(ctx context.Context, tasks *errgroup.Group) error {
	ticker := time.NewTicker(resync)
	defer ticker.Stop()
	deadline := time.NewTimer(0)
	defer deadline.Stop()
	for {
		links, err := d.system.links()
		if err != nil {
			d.fail("", err)
			deadline.Reset(retry)
		} else {
			d.setFailure("")
			d.match(ctx, tasks, links)
		}
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
		if async.Sleep(ctx, settle) != nil {
			return nil
		}
	}
}

// match starts and ends segments, and passes links on.
func (d *Driver) match(ctx context.Context, tasks *errgroup.Group, links []packet.Link) {
	d.mu.Lock()
	defer d.mu.Unlock()
	present := make(map[string]bool, len(links))
	for _, l := range links {
		home := slices.ContainsFunc(d.config.NodeAddresses, func(a netip.Addr) bool { return slices.Contains(l.Addrs, a.Unmap()) })
		if !home && !d.named(l.Name) {
			continue
		}
		present[l.Name] = true
		seg, ok := d.segments[l.Name]
		if !ok {
			seg = d.begin(ctx, tasks, l.Name)
		}
		seg.relink(l, home)
	}
	for name, seg := range d.segments {
		if !present[name] {
			delete(d.segments, name)
			seg.cancel()
		}
	}
}

// begin starts the loop of a new segment. d.mu is held.
func (d *Driver) begin(ctx context.Context, tasks *errgroup.Group, name string) *segment {
	ctx, cancel := context.WithCancel(ctx)
	seg := newSegment(d, name, cancel)
	for group, desired := range d.groups {
		seg.want(group, desired)
	}
	for _, said := range d.mirror {
		seg.mirror(said)
	}
	before := d.ended[name]
	d.ended[name] = seg.done
	d.segments[name] = seg
	tasks.Go(func() error {
		defer close(seg.done)
		if before != nil {
			<-before // an interface of this name that was served before: one at a time
		}
		seg.run(ctx)
		return nil
	})
	return seg
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

// home reports whether the interface holds a node address.
func (d *Driver) home(name string) bool {
	d.mu.Lock()
	seg, ok := d.segments[name]
	d.mu.Unlock()
	if !ok {
		return false
	}
	seg.inbox.mu.Lock()
	defer seg.inbox.mu.Unlock()
	return seg.inbox.home
}

// named reports whether a group names the interface. d.mu is held.
func (d *Driver) named(ifname string) bool {
	for p := range d.patterns {
		if matches(p, ifname) {
			return true
		}
	}
	return false
}

func matches(pattern, ifname string) bool {
	ok, err := path.Match(pattern, ifname)
	return err == nil && ok
}

// checkDrained closes the channel of the present leave when its time has come, and returns how long to wait
// until then at most; 0: nothing to wait for.
func (d *Driver) checkDrained() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case <-d.leave.drained:
		return 0
	default:
	}
	if !d.state.Departing() {
		return 0
	}
	left := d.config.Handover + grace - time.Since(d.leave.began)
	for _, seg := range d.segments {
		if seg.drained.Load() != d.leave.round && left > 0 {
			return left
		}
	}
	close(d.leave.drained)
	return 0
}

// fail reports what went wrong, on an interface or, with an empty name, with the driver as a whole.
func (d *Driver) fail(ifname string, err error) {
	d.config.Logger.Warn("layer 2 failure, will be retried", "interface", ifname, "error", err)
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
