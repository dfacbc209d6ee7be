// Package steer is what the speaker uses of steering: it tells the driver (package
// speaker/dataplane/steering) what the speaker knows, in the driver's terms.
package steer

import (
	"crypto/sha256"
	"net/netip"
	"slices"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/links"
	"github.com/berth-lb/berth/speaker/localnet"
)

// Report is how far this node steers.
type Report struct {
	// Lacking says in a sentence why it does not; empty: it does.
	Lacking string
	// Starting: it does not, but may in a moment.
	Starting bool
	// Problem is what is wrong though it steers; empty: nothing.
	Problem string
	// Features of the kernel, of those that steering can do without.
	Features []v1alpha1.SteeringFeature
	// Ports is the number of addresses with a port and a protocol whose connections it steers.
	Ports int
}

// Seed returns the seed by which all nodes of the cluster hash alike, and which nobody outside of
// it knows: from the key with which the controller signs records, which lasts.
func Seed(recordKey []byte) (seed [16]byte) {
	sum := sha256.Sum256(append([]byte("berth steering\x00"), recordKey...))
	copy(seed[:], sum[:])
	return seed
}

// Interfaces returns those that packets for Services may come by from outside, ascending: all that
// have an address, without those of pods and of Services. Ways is what else of the network decides
// by which of them other nodes are reached: if it is the same, so are they.
func Interfaces(network localnet.Network, pods []netip.Prefix) (names, ways []string) {
	for _, gateway := range network.Gateways {
		ways = append(ways, gateway.String())
	}
	for _, a := range network.Addresses {
		ofPods := slices.ContainsFunc(pods, func(p netip.Prefix) bool { return p.Contains(a.Addr()) })
		if a.Interface != "lo" && !links.OfServices(a.Interface) && !ofPods {
			names = append(names, a.Interface)
			ways = append(ways, a.String())
		}
	}
	slices.Sort(names)
	return slices.Compact(names), ways
}
