package config

import (
	"net/netip"
	"testing"
	"time"

	"github.com/berth-lb/berth/config/v1alpha1"
)

func TestTheDataplaneHoldsForAWholeService(t *testing.T) {
	forwarded := func(
		name string,
		settings *v1alpha1.IPVSSettings,
		addresses v1alpha1.AddressRange,
	) *v1alpha1.LoadBalancerPool {
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
		{
			name:  "no address",
			asked: "lc",
		},
		{
			name:      "a pool of kube-proxy's",
			addresses: []string{"203.0.113.1"},
		},
		{
			name:      "in no pool",
			addresses: []string{"10.0.0.1"},
		},
		{
			name:      "the pool's scheduler",
			addresses: []string{"192.0.2.1"},
			scheduler: "mh",
		},
		{
			name:      "the default scheduler",
			addresses: []string{"2001:db8::1"},
			scheduler: "rr",
		},
		{
			name:      "the scheduler of the first address's pool",
			addresses: []string{"192.0.2.1", "2001:db8::1"},
			scheduler: "mh",
		},
		{
			name:      "and the other way round",
			addresses: []string{"2001:db8::1", "192.0.2.1"},
			scheduler: "rr",
		},
		{
			name:      "another scheduler",
			addresses: []string{"192.0.2.1"},
			asked:     "wlc",
			scheduler: "wlc",
		},
		{
			name:      "two dataplanes",
			addresses: []string{"192.0.2.1", "2001:db8:1::1"},
			complaint: "kube-proxy forwards, since a Service has one dataplane: 192.0.2.1 is of LoadBalancerPool four (dataplane IPVS), 2001:db8:1::1 is of LoadBalancerPool plain (dataplane KubeProxy)" + remedy,
		},
		{
			name:      "two dataplanes, and a scheduler",
			addresses: []string{"198.51.100.1", "2001:db8::1"},
			asked:     "lc",
			complaint: "kube-proxy forwards, since a Service has one dataplane: 198.51.100.1 is of LoadBalancerPool explicit (dataplane KubeProxy), 2001:db8::1 is of LoadBalancerPool six (dataplane IPVS)" + remedy,
		},
		{
			name:      "one address in no pool",
			addresses: []string{"192.0.2.1", "2001:db8:9::1"},
			complaint: "kube-proxy forwards, since a Service has one dataplane: 192.0.2.1 is of LoadBalancerPool four (dataplane IPVS), 2001:db8:9::1 is in no LoadBalancerPool" + remedy,
		},
		{
			name:      "no such scheduler",
			addresses: []string{"192.0.2.1"},
			asked:     "fastest",
			scheduler: "mh",
			complaint: `annotation berth.dev/ipvs-scheduler: "fastest" is not a valid scheduler, so mh of LoadBalancerPool four serves; write one of rr, wrr, lc, wlc, dh, sh, sed, nq, mh`,
		},
		{
			name:      "a scheduler without IPVS",
			addresses: []string{"203.0.113.1"},
			asked:     "lc",
			complaint: `annotation berth.dev/ipvs-scheduler: "lc" has no effect: 203.0.113.1 is of LoadBalancerPool plain (dataplane KubeProxy)` + none,
		},
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
	quick, unset, plain := pool(
		"quick",
		1,
		"192.0.2.0/24",
	), pool(
		"unset",
		1,
		"2001:db8::/64",
	), pool(
		"plain",
		1,
		"203.0.113.0/24",
	)
	quick.Spec.Dataplane, unset.Spec.Dataplane = v1alpha1.DataplaneIPVS, v1alpha1.DataplaneIPVS
	quick.Spec.IPVS = &v1alpha1.IPVSSettings{DrainTimeout: "90s"}
	s, _ := Compile(Objects{Pools: []*v1alpha1.LoadBalancerPool{quick, unset, plain}})
	for _, c := range []struct {
		name      string
		addresses []string
		want      time.Duration
	}{
		{
			name:      "the pool's",
			addresses: []string{"192.0.2.1"},
			want:      90 * time.Second,
		},
		{
			name:      "the default",
			addresses: []string{"2001:db8::1"},
			want:      time.Hour,
		},
		{
			name:      "of the first address's pool",
			addresses: []string{"192.0.2.1", "2001:db8::1"},
			want:      90 * time.Second,
		},
		{
			name:      "and the other way round",
			addresses: []string{"2001:db8::1", "192.0.2.1"},
			want:      time.Hour,
		},
		{
			name:      "a pool of kube-proxy's",
			addresses: []string{"203.0.113.1"},
			want:      time.Hour,
		},
		{
			name:      "in no pool",
			addresses: []string{"10.0.0.1"},
			want:      time.Hour,
		},
		{
			name: "no address",
			want: time.Hour,
		},
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
