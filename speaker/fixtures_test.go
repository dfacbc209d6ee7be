package speaker

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/speaker/stored"
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

// kept returns what a node that forwards keeps of a Service or an EndpointSlice.
func kept(o any) any {
	switch o := o.(type) {
	case *corev1.Service:
		return stored.NewService(o, true)
	case *discoveryv1.EndpointSlice:
		return stored.NewBackends(o)
	}
	return o
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }
