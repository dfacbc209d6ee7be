package bgp

import (
	"context"
	"maps"
	"net/netip"
	"time"

	"github.com/osrg/gobgp/v4/pkg/apiutil"
)

// touch marks a prefix for comparison, without taking back that it was marked for sure.
func (o *loop) touch(prefix netip.Prefix) {
	if _, marked := o.dirty[prefix]; !marked {
		o.dirty[prefix] = false
	}
}

// change is one prefix on its way to GoBGP.
type change struct {
	prefix   netip.Prefix
	announce bool
	to       announcement
	path     *apiutil.Path
}

// sendBatch compares some dirty prefixes with what is announced, and sends the difference.
func (o *loop) sendBatch() {
	var announce, withdraw []change
	for prefix, forced := range o.dirty {
		if len(announce)+len(withdraw) == pathsPerCall {
			break
		}
		delete(o.dirty, prefix)
		c, needed := o.compare(prefix, forced)
		switch {
		case !needed:
		case c.announce:
			announce = append(announce, c)
		default:
			withdraw = append(withdraw, c)
		}
	}
	if len(o.dirty) == 0 {
		o.dirty = map[netip.Prefix]bool{} // an emptied map costs its former size to look through
	}
	o.send(withdraw, o.server.remove)
	o.send(announce, o.addKnown)
	if o.withdrawDone() {
		for _, done := range o.withdrawn {
			close(done)
		}
		o.withdrawn = nil
	}
}

// addKnown hands paths to GoBGP, after the policy knows what they refer to.
func (o *loop) addKnown(paths []*apiutil.Path) error {
	if err := o.publishSets(); err != nil {
		return err
	}
	return o.server.add(paths)
}

// publishSets replaces the sets of attributes of the export policy.
func (o *loop) publishSets() error {
	if !o.sets.news {
		return nil
	}
	var peers []recipient
	for _, s := range o.byAddress { // before the prefix that they are in: the first statement counts
		if s.peer.ByPrefix() && (s.extended || s.beside.IsValid()) {
			peers = append(peers, o.recipient(s.peer, s.extended))
		}
	}
	for _, p := range o.usable {
		s := o.published.sessions[p.Name]
		if s == nil { // it is added next
			s = &session{peer: p}
		}
		peers = append(peers, o.recipient(p, s.takesExtended()))
	}
	if err := o.server.setPeers(context.Background(), peers, o.sets); err != nil {
		return err
	}
	o.sets.news = false
	return nil
}

// compare decides what a prefix needs, if anything.
func (o *loop) compare(prefix netip.Prefix, forced bool) (c change, needed bool) {
	have, announced := o.announced[prefix]
	want, wanted := o.desired.announcement(prefix)
	switch {
	case o.phase == withdrawn, o.phase == draining && !announced:
		wanted = false
	case o.phase == draining, o.phase == lastResort: // alike, for one may follow the other
		want = want.lastResort()
	}
	want = want.explicit()
	hop, reachable := o.nextHop(familyOf(prefix.Addr()))
	var problem string
	switch {
	case !prefix.IsValid():
		problem = "the prefix is not valid"
	case !reachable:
		problem = "the node has no next hop of this family"
	}
	if wanted && problem != "" {
		o.fail(prefix, problem)
		return change{}, false
	}
	if !wanted && problem != "" {
		o.clear(prefix)
		return change{}, false
	}
	if !forced && announced == wanted && (!announced || have.equal(want)) {
		o.clear(prefix)
		return change{}, false
	}
	c = change{prefix: prefix, announce: wanted, to: want}
	if !wanted {
		c.to = have
	}
	err := c.to.validate()
	if err == nil {
		o.sets.learn(c.to)
		c.path, err = newPath(prefix, c.to, hop, !wanted, o.sets, o.asn())
	}
	if err != nil {
		o.refuse(prefix, err)
		return change{}, false
	}
	return c, true
}

// asn is the AS number that link bandwidths name: that of the first session.
func (o *loop) asn() uint32 {
	for _, p := range o.peers {
		return p.LocalASN
	}
	return 0
}

// send hands changes to GoBGP. If it refuses the batch, one by one, so that one bad path stops no
// other.
func (o *loop) send(changes []change, call func([]*apiutil.Path) error) {
	if len(changes) == 0 {
		return
	}
	paths := make([]*apiutil.Path, len(changes))
	for i, c := range changes {
		paths[i] = c.path
	}
	err := call(paths)
	o.lastWrite = time.Now()
	if err == nil {
		for _, c := range changes {
			o.sent(c)
		}
		return
	}
	for _, c := range changes {
		err := call([]*apiutil.Path{c.path})
		o.lastWrite = time.Now()
		if err != nil {
			o.refuse(c.prefix, err)
			continue
		}
		o.sent(c)
	}
}

func (o *loop) sent(c change) {
	if have, was := o.announced[c.prefix]; was {
		o.published.count(c.prefix, have, -1)
		delete(o.announced, c.prefix)
	}
	operation := "withdraw"
	if c.announce {
		operation = "announce"
		o.announced[c.prefix] = c.to
		o.published.count(c.prefix, c.to, 1)
	}
	o.metrics.updates.WithLabelValues(operation).Inc()
	o.log.Debug("sent a route to GoBGP", "operation", operation, "prefix", c.prefix.String())
	o.clear(c.prefix)
}

// refuse remembers that GoBGP did not take a change, to try it again.
func (o *loop) refuse(prefix netip.Prefix, err error) {
	o.metrics.errors.Inc()
	o.refused[prefix] = struct{}{}
	o.retry.Reset(retryPause)
	o.fail(prefix, err.Error())
}

// fail publishes why a prefix is not as wanted.
func (o *loop) fail(prefix netip.Prefix, reason string) {
	var known bool
	o.published.update(func() {
		known = o.published.failed[prefix] == reason
		o.published.failed[prefix] = reason
	})
	if known {
		return
	}
	o.log.Warn("route is not announced", "prefix", prefix.String(), "reason", reason)
	o.observed.Send(Observation{Time: time.Now(), Kind: RouteFailed, Prefix: prefix, Reason: reason})
}

func (o *loop) clear(prefix netip.Prefix) {
	delete(o.refused, prefix)
	o.published.update(func() { delete(o.published.failed, prefix) })
}

func (o *loop) tryAgain(ctx context.Context) {
	for prefix := range o.refused {
		o.dirty[prefix] = true
	}
	if o.listenError != "" && o.mayListen() {
		o.restartReason = "routers can connect from now on"
		return
	}
	if !o.peersDone {
		o.syncPeers(ctx)
	}
}

// readBack compares what GoBGP has with what it was told, and marks the difference for repair.
func (o *loop) readBack() {
	o.sets.forget(maps.Values(o.announced))
	if err := o.publishSets(); err != nil {
		o.log.Error("GoBGP refused the policies", "error", err)
	}
	for _, family := range families {
		found, err := o.server.paths(family)
		if err != nil {
			o.log.Error("could not read routes back from GoBGP", "error", err)
			return
		}
		hop, _ := o.nextHop(family)
		for prefix, a := range o.announced {
			if familyOf(prefix.Addr()) != family {
				continue
			}
			want, err := newPath(prefix, a, hop, false, o.sets, o.asn())
			if got, ok := found[prefix]; err != nil || !ok || !samePath(got, want) {
				o.log.Warn("GoBGP lost a route or changed it; repairing", "prefix", prefix.String())
				o.dirty[prefix] = true
			}
		}
		for prefix := range found {
			if _, ok := o.announced[prefix]; !ok {
				o.log.Warn("GoBGP has a route that nobody asked for; removing it", "prefix", prefix.String())
				o.dirty[prefix] = true
			}
		}
	}
}

// withdrawDone reports whether nothing is left to wait for, or Resume came first.
func (o *loop) withdrawDone() bool {
	return o.phase != withdrawn || len(o.dirty) == 0 && len(o.announced) == 0
}
