package speaker

import (
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/speaker/plan"
)

func addrs(s ...string) []netip.Addr {
	var a []netip.Addr
	for _, x := range s {
		a = append(a, netip.MustParseAddr(x))
	}
	return a
}

func set(names ...string) map[string]bool {
	s := map[string]bool{}
	for _, n := range names {
		s[n] = true
	}
	return s
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

func backend(port, address, node string, state candidate.State) plan.Backend {
	return plan.Backend{Port: port, Address: netip.MustParseAddrPort(address), Node: node, State: state}
}
