package notice

import (
	"cmp"
	"context"
	"crypto/sha256"
	"net"
	"net/netip"
	"slices"
	"time"
)

const (
	helloEvery = 250 * time.Millisecond
	// helloLate is after how long without a hello its sender is asked. A speaker is not as punctual as
	// what answers on segments.
	helloLate = 4 * helloEvery
	// firstHello is how long a speaker takes to hear the nodes on its segments.
	firstHello = 3 * time.Second
	// watchers is how many nodes get the hellos of one.
	watchers = 3
)

// watchersOf returns the nodes that are to notice the death of a node: of those that may, the ones
// that come first in an order of that node's own, so that few change as nodes come and go.
func watchersOf(node string, may []string) []string {
	order := func(a string) string {
		sum := sha256.Sum256([]byte(node + "/" + a))
		return string(sum[:])
	}
	slices.SortFunc(may, func(a, b string) int { return cmp.Compare(order(a), order(b)) })
	return may[:min(len(may), watchers)]
}

// wards says whose hellos are late. It is pure: the caller has the clock.
type wards struct {
	last   map[string]time.Time // hello by node
	looked time.Time
}

// hear notes a hello.
func (w *wards) hear(node string, now time.Time) { w.last[node] = now }

// late returns the nodes whose hellos are, once. If it is called late itself, hellos may wait to be
// read, and all get their time again.
func (w *wards) late(now time.Time) []string {
	slept := now.Sub(w.looked) > 2*helloEvery
	w.looked = now
	var found []string
	for node, last := range w.last {
		switch {
		case slept:
			w.last[node] = now
		case now.Sub(last) > helloLate:
			found = append(found, node)
			delete(w.last, node)
		}
	}
	return found
}

// greet sends hellos, and has the detector ask who sends none any more, until the context ends.
func (d *Driver) greet(ctx context.Context, conn *net.UDPConn) {
	begun := time.Now()
	watched := wards{last: map[string]time.Time{}, looked: begun}
	ticker := time.NewTicker(helloEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case node := <-d.came:
			watched.hear(node, time.Now())
		case now := <-ticker.C:
			for _, node := range watched.late(now) {
				d.Dead.MissRouted(node)
			}
			if keys := d.keys.Load(); now.Sub(begun) >= firstHello && keys != nil && len(keys.Sign) > 0 &&
				d.ready.Load() &&
				d.Serves() {
				d.hello(conn, keys.Sign, now)
			}
		}
	}
}

// hello sends one to each watcher. A cluster on one segment has none.
func (d *Driver) hello(conn *net.UDPConn, key []byte, now time.Time) {
	nodes := d.Nodes()
	var may []string
	for node, addresses := range nodes {
		if node != d.Node && len(addresses) > 0 && !d.Dead.Hears(node) {
			may = append(may, node)
		}
	}
	if len(may) == 0 {
		return
	}
	b := Notice{Kind: Hello, Node: d.Node, Sent: uint64(now.UnixNano())}.Seal(key)
	for _, node := range watchersOf(d.Node, may) {
		_, _ = conn.WriteToUDPAddrPort(b, netip.AddrPortFrom(nodes[node][0], d.port))
	}
}
