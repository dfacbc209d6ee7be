// Package steerquery has a speaker say which node a client's packets are steered to, for kubectl
// berth why --client. Only speakers know the seed of the hash. Who asks connects to a socket in the
// speaker's pod.
package steerquery

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Protocols are those of a Service's ports.
var Protocols = []string{"TCP", "UDP", "SCTP"}

// Query is a connection, as its client sends.
type Query struct {
	Service  netip.AddrPort `json:"service"`
	Client   netip.AddrPort `json:"client"`
	Protocol string         `json:"protocol"` // one of Protocols
}

// Check returns what is wrong with the query.
func (q Query) Check() error {
	for _, of := range []struct {
		name string
		at   netip.AddrPort
	}{{"service", q.Service}, {"client", q.Client}} {
		a := of.at.Addr()
		if !a.IsValid() || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || of.at.Port() == 0 {
			return fmt.Errorf("%s %s: is not an address and a port; write it like 192.0.2.1:80 or [2001:db8::1]:80",
				of.name, of.at)
		}
	}
	if q.Service.Addr().Is4() != q.Client.Addr().Is4() {
		return fmt.Errorf("client %s: is of another family than the Service's address %s; give both of one family",
			q.Client, q.Service.Addr())
	}
	if !slices.Contains(Protocols, q.Protocol) {
		return fmt.Errorf("protocol %q: is not known; write one of %s", q.Protocol, strings.Join(Protocols, ", "))
	}
	return nil
}

// Answer is what a node does with a new connection that comes to it.
type Answer struct {
	// Lacking says why the node does not steer it; then the rest is empty.
	Lacking string `json:"lacking,omitempty"`
	// Slot is the slot that the client's packets are in, of Slots.
	Slot  int `json:"slot"`
	Slots int `json:"slots,omitempty"`
	// BySource: only the client's address says which slot that is (session affinity).
	BySource bool `json:"bySource,omitempty"`
	// Ranks are the nodes of the slot, the best first.
	Ranks []Rank `json:"ranks,omitempty"`
	// Node gets the connection, for a Reason that is spelled as in metrics.
	Node   string `json:"node,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Asks is the node that Node asks about a connection that it does not know; empty: none.
	Asks string `json:"asks,omitempty"`
}

// Rank is a node of a slot.
type Rank struct {
	Node string `json:"node"`
	// Draining: it has no ready endpoint any more. Dead: it is thought to be dead.
	Draining bool `json:"draining,omitempty"`
	Dead     bool `json:"dead,omitempty"`
}
