package config

import (
	"net/netip"
	"testing"
	"time"

	"github.com/berth-lb/berth/config/v1alpha1"
)

func TestTheDataplaneHoldsForAWholeService(t *testing.T) {
	forwarded := func(name string, settings *v1alpha1.IPVSSettings, addresses v1alpha1.AddressRange) *v1alpha1.LoadBalancerPool {
		p := pool(name, 1, addresses)
		p.Spec.Dataplane, p.Spec.IPVS = v1alpha1.DataplaneIPVS, settings
		return p
	}
	explicit := pool("explicit", 1, "198.51.100.0/24")
	explicit.Spec.Dataplane = v1alpha1.DataplaneKubeProxy
	s, problems := Compile(Objects{Pools: []*v1alpha1.LoadBalancerPool{
		forwarded("four", &v1alpha1.IPVSSettings{Scheduler: "mh"}, "192.0.2.0/24"),
		forwarded("six", nil, "2001:db8::/64"),
		pool("plain", 1, "203.0.113.0/24", "2001:db8:1::/64"), explicit,
	}})
	for key, found := range problems {
		if len(found) > 0 {
			t.Errorf("%v: %v", key, messages(found))
		}
	}
	const remedy = "; give these pools the same spec.dataplane, or ask for others with annotation berth.dev/pools"
	const none = "; take it out, or ask for a pool with dataplane IPVS with annotation berth.dev/pools"
	for _, c := range []struct {
		name                 string
		addresses            []string
		asked                string
		scheduler, complaint string
	}{
		{"no address", nil, "lc", "", ""},
		{"a pool of kube-proxy's", []string{"203.0.113.1"}, "", "", ""},
		{"in no pool", []string{"10.0.0.1"}, "", "", ""},
		{"the pool's scheduler", []string{"192.0.2.1"}, "", "mh", ""},
		{"the default scheduler", []string{"2001:db8::1"}, "", "rr", ""},
		{"the scheduler of the first address's pool", []string{"192.0.2.1", "2001:db8::1"}, "", "mh", ""},
		{"and the other way round", []string{"2001:db8::1", "192.0.2.1"}, "", "rr", ""},
		{"another scheduler", []string{"192.0.2.1"}, "wlc", "wlc", ""},
		{"two dataplanes", []string{"192.0.2.1", "2001:db8:1::1"}, "", "",
			"kube-proxy forwards, since a Service has one dataplane: 192.0.2.1 is of LoadBalancerPool four (dataplane IPVS), 2001:db8:1::1 is of LoadBalancerPool plain (dataplane KubeProxy)" + remedy},
		{"two dataplanes, and a scheduler", []string{"198.51.100.1", "2001:db8::1"}, "lc", "",
			"kube-proxy forwards, since a Service has one dataplane: 198.51.100.1 is of LoadBalancerPool explicit (dataplane KubeProxy), 2001:db8::1 is of LoadBalancerPool six (dataplane IPVS)" + remedy},
		{"one address in no pool", []string{"192.0.2.1", "2001:db8:9::1"}, "", "",
			"kube-proxy forwards, since a Service has one dataplane: 192.0.2.1 is of LoadBalancerPool four (dataplane IPVS), 2001:db8:9::1 is in no LoadBalancerPool" + remedy},
		{"no such scheduler", []string{"192.0.2.1"}, "fastest", "mh",
			`annotation berth.dev/ipvs-scheduler: "fastest" is no scheduler, so mh of LoadBalancerPool four serves; write one of rr, wrr, lc, wlc, dh, sh, sed, nq, mh`},
		{"a scheduler without IPVS", []string{"203.0.113.1"}, "lc", "",
			`annotation berth.dev/ipvs-scheduler: "lc" has no effect: 203.0.113.1 is of LoadBalancerPool plain (dataplane KubeProxy)` + none},
	} {
		var addresses []netip.Addr
		for _, a := range c.addresses {
			addresses = append(addresses, netip.MustParseAddr(a))
		}
		scheduler, complaint := s.Scheduler(addresses, c.asked)
		if scheduler != c.scheduler || complaint != c.complaint {
			t.Errorf("%s:\n got %q, %s\nwant %q, %s", c.name, scheduler, complaint, c.scheduler, c.complaint)
		}
	}
}

func TestHowLongEndpointsDrain(t *testing.T) {
	quick, unset, plain := pool("quick", 1, "192.0.2.0/24"), pool("unset", 1, "2001:db8::/64"), pool("plain", 1, "203.0.113.0/24")
	quick.Spec.Dataplane, unset.Spec.Dataplane = v1alpha1.DataplaneIPVS, v1alpha1.DataplaneIPVS
	quick.Spec.IPVS = &v1alpha1.IPVSSettings{DrainTimeout: "90s"}
	s, _ := Compile(Objects{Pools: []*v1alpha1.LoadBalancerPool{quick, unset, plain}})
	for _, c := range []struct {
		name      string
		addresses []string
		want      time.Duration
	}{
		{"the pool's", []string{"192.0.2.1"}, 90 * time.Second},
		{"the default", []string{"2001:db8::1"}, time.Hour},
		{"of the first address's pool", []string{"192.0.2.1", "2001:db8::1"}, 90 * time.Second},
		{"and the other way round", []string{"2001:db8::1", "192.0.2.1"}, time.Hour},
		{"a pool of kube-proxy's", []string{"203.0.113.1"}, time.Hour},
		{"in no pool", []string{"10.0.0.1"}, time.Hour},
		{"no address", nil, time.Hour},
	} {
		var addresses []netip.Addr
		for _, a := range c.addresses {
			addresses = append(addresses, netip.MustParseAddr(a))
		}
		if got := s.DrainTimeout(addresses); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
