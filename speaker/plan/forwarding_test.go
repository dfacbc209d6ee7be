package plan

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
	"github.com/berth-lb/berth/internal/scheduler"
	"github.com/berth-lb/berth/speaker/dataplane/guard"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// forwardingWorld has a pool of IPVS and one of kube-proxy; n1 can forward with all schedulers.
func forwardingWorld() World {
	snapshot, _ := config.Compile(config.Objects{
		Pools: v1alpha1test.SelectAll([]*v1alpha1.LoadBalancerPool{
			{
				ObjectMeta: named("ours"),
				Spec: v1alpha1.LoadBalancerPoolSpec{
					Addresses: []v1alpha1.AddressRange{"192.0.2.0/24", "2001:db8::/64"},
					Dataplane: v1alpha1.DataplaneIPVS,
					IPVS:      &v1alpha1.IPVSSettings{Scheduler: "wlc"},
				},
			},
			{
				ObjectMeta: named("theirs"),
				Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{"198.51.100.0/24"}},
			},
		}),
		SegmentAnnouncements: v1alpha1test.SelectAll([]*v1alpha1.SegmentAnnouncement{{ObjectMeta: named("all")}}),
		RouteAnnouncements:   v1alpha1test.SelectAll([]*v1alpha1.RouteAnnouncement{{ObjectMeta: named("all")}}),
	})
	return World{
		Self:         "n1",
		Snapshot:     snapshot,
		Nodes:        map[string]Node{"n1": {}, "n2": {}},
		Forwards:     true,
		Capabilities: Capability(scheduler.Names()...),
	}
}

func backend(port, address, node string, state candidate.State) Backend {
	return Backend{Port: port, Address: netip.MustParseAddrPort(address), Node: node, State: state}
}

// overdue is a backend that has terminated for too long.
func overdue(port, address, node string, state candidate.State) Backend {
	b := backend(port, address, node, state)
	b.Terminates, b.Overdue = true, true
	return b
}

func TestPlanForwarding(t *testing.T) {
	web := func(changes ...func(*Service)) Service {
		s := Service{Name: "d/web", Addresses: addrs("192.0.2.1"), Proxied: true, Ports: []Port{{"http", ipvs.TCP, 80}}}
		for _, c := range changes {
			c(&s)
		}
		return s
	}
	local := func(s *Service) { s.Local = true }
	server := func(address string, change ...func(*ipvs.RealServer)) ipvs.RealServer {
		at := netip.MustParseAddrPort(address)
		r := ipvs.RealServer{Address: at.Addr(), Port: at.Port(), Weight: 1}
		for _, c := range change {
			c(&r)
		}
		return r
	}
	draining := func(r *ipvs.RealServer) { r.Weight, r.Draining = 0, true }
	front := ipvs.Frontend{Address: netip.MustParseAddr("192.0.2.1"), Port: 80, Protocol: ipvs.TCP}
	one := func(s ipvs.Settings, servers ...ipvs.RealServer) ipvs.Table {
		return ipvs.Table{front: {Settings: s, RealServers: servers}}
	}
	guarded := func(masquerade bool, sources ...netip.Prefix) []guard.Frontend {
		return []guard.Frontend{{Address: front.Address, Port: 80, Protocol: 6, Masquerade: masquerade, Sources: sources}}
	}
	refused := func(sources ...netip.Prefix) []guard.Frontend {
		found := guarded(true, sources...)
		found[0].Refuse = true // there is no endpoint
		return found
	}
	wlc := ipvs.Settings{Scheduler: "wlc"}
	for _, c := range []struct {
		name     string
		service  Service
		backends []Backend
		table    ipvs.Table
		guards   []guard.Frontend
	}{
		{
			name:    "policy Cluster: all ready endpoints",
			service: web(),
			backends: []Backend{
				backend("http", "10.0.1.1:8080", "n1", candidate.Ready),
				backend("http", "10.0.2.1:8080", "n2", candidate.Ready),
				backend("http", "10.9.9.9:80", "", candidate.Ready),
			},
			table:  one(wlc, server("10.0.1.1:8080"), server("10.0.2.1:8080"), server("10.9.9.9:80")),
			guards: guarded(true),
		},
		{
			name:    "policy Local: those of the node",
			service: web(local),
			backends: []Backend{
				backend("http", "10.0.1.1:8080", "n1", candidate.Ready),
				backend("http", "10.0.2.1:8080", "n2", candidate.Ready),
			},
			table:  one(wlc, server("10.0.1.1:8080")),
			guards: guarded(false),
		},
		{
			name:     "policy Local without one on the node: all, for its own pods",
			service:  web(local),
			backends: []Backend{backend("http", "10.0.2.1:8080", "n2", candidate.Ready)},
			table:    one(wlc, server("10.0.2.1:8080")),
			guards:   guarded(true),
		},
		{
			name:    "policy Local, the node's own is terminating: all, and its own keeps what it has",
			service: web(local),
			backends: []Backend{
				backend("http", "10.0.1.1:8080", "n1", candidate.Serving),
				backend("http", "10.0.2.1:8080", "n2", candidate.Ready),
			},
			table:  one(wlc, server("10.0.2.1:8080"), server("10.0.1.1:8080", draining)),
			guards: guarded(true),
		},
		{
			name:    "what terminates or is not ready keeps what it has",
			service: web(),
			backends: []Backend{
				backend("http", "10.0.1.1:8080", "n1", candidate.Ready),
				backend("http", "10.0.1.2:8080", "n1", candidate.Serving),
				backend("http", "10.0.1.3:8080", "n1", candidate.Useless),
			},
			table:  one(wlc, server("10.0.1.1:8080"), server("10.0.1.2:8080", draining), server("10.0.1.3:8080", draining)),
			guards: guarded(true),
		},
		{
			name:     "nothing is ready: what serves while it terminates",
			service:  web(),
			backends: []Backend{backend("http", "10.0.1.2:8080", "n1", candidate.Serving)},
			table:    one(wlc, server("10.0.1.2:8080")),
			guards:   guarded(true),
		},
		{
			name:    "what has terminated for too long keeps nothing",
			service: web(),
			backends: []Backend{
				backend("http", "10.0.1.1:8080", "n1", candidate.Ready),
				overdue("http", "10.0.1.2:8080", "n1", candidate.Serving),
				overdue("http", "10.0.1.3:8080", "n1", candidate.Useless),
			},
			table:  one(wlc, server("10.0.1.1:8080")),
			guards: guarded(true),
		},
		{
			name:    "nothing is ready: what serves while it terminates, for how long ever",
			service: web(),
			backends: []Backend{
				overdue("http", "10.0.1.2:8080", "n1", candidate.Serving),
				overdue("http", "10.0.1.3:8080", "n1", candidate.Useless),
			},
			table:  one(wlc, server("10.0.1.2:8080")),
			guards: guarded(true),
		},
		{
			name:    "two slices tell of one endpoint: it keeps what it has if one of them lets it",
			service: web(),
			backends: []Backend{
				overdue("http", "10.0.1.2:8080", "n1", candidate.Serving),
				backend("http", "10.0.1.2:8080", "n1", candidate.Useless),
				backend("http", "10.0.1.1:8080", "n1", candidate.Ready),
			},
			table:  one(wlc, server("10.0.1.1:8080"), server("10.0.1.2:8080", draining)),
			guards: guarded(true),
		},
		{
			name:    "two slices tell of one endpoint: ready wins",
			service: web(),
			backends: []Backend{
				backend("http", "10.0.1.2:8080", "n1", candidate.Useless),
				backend("http", "10.0.1.2:8080", "n1", candidate.Ready),
			},
			table:  one(wlc, server("10.0.1.2:8080")),
			guards: guarded(true),
		},
		{
			name:    "other ports, other families",
			service: web(),
			backends: []Backend{
				backend("admin", "10.0.1.1:9090", "n1", candidate.Ready),
				backend("http", "[2001:db8:9::1]:8080", "n1", candidate.Ready),
			},
			table:  one(wlc),
			guards: refused(),
		},
		{
			name:    "Maglev chooses by the client's port too",
			service: web(func(s *Service) { s.Scheduler, s.Persistence = "mh", 3*time.Hour }),
			table: one(ipvs.Settings{
				Scheduler:          "mh",
				Flags:              ipvs.HashPort | ipvs.Fallback,
				PersistenceTimeout: 3 * time.Hour,
			}),
			guards: refused(),
		},
		{
			name: "source ranges",
			service: web(func(s *Service) {
				s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
			}),
			table:  one(wlc),
			guards: refused(netip.MustParsePrefix("10.0.0.0/8")),
		},
		{
			name:    "source ranges of the other family only: nobody but the address itself",
			service: web(func(s *Service) { s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("fd00::/8")} }),
			table:   one(wlc),
			guards:  refused(netip.MustParsePrefix("192.0.2.1/32")),
		},
		{
			name:    "before the status says so",
			service: web(func(s *Service) { s.Proxied = false }),
			table:   one(wlc),
			guards:  refused(),
		},
		{
			name:    "when the pool is another's and the status says so still",
			service: web(func(s *Service) { s.Addresses = addrs("198.51.100.1") }),
			table: ipvs.Table{
				{
					Address:  netip.MustParseAddr("198.51.100.1"),
					Port:     80,
					Protocol: ipvs.TCP,
				}: {Settings: ipvs.Settings{Scheduler: "rr"}},
			},
			guards: []guard.Frontend{
				{Address: netip.MustParseAddr("198.51.100.1"), Port: 80, Protocol: 6, Masquerade: true, Refuse: true},
			},
		},
		{
			name:    "kube-proxy's",
			service: web(func(s *Service) { s.Addresses, s.Proxied = addrs("198.51.100.1"), false }),
			table:   ipvs.Table{},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			group := Group{ID: "g", Addresses: c.service.Addresses, Services: []Service{c.service}}
			got := forward(group, map[string][]Backend{"d/web": c.backends}, nil, forwardingWorld())
			if diff := cmp.Diff(Forwarding{c.table, c.guards}, got, equalAddresses); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Under policy Local a node's own pods and processes reach all endpoints, as they do by kube-proxy.
func TestPlanForwarding_marks(t *testing.T) {
	s := Service{
		Name:        "d/web",
		Addresses:   addrs("192.0.2.1"),
		Proxied:     true,
		Local:       true,
		Ports:       []Port{{"http", ipvs.TCP, 80}},
		Persistence: time.Hour,
	}
	front := ipvs.Frontend{Address: s.Addresses[0], Port: 80, Protocol: ipvs.TCP}
	group := Group{ID: "g", Addresses: s.Addresses, Services: []Service{s}}
	world := forwardingWorld()
	if found := MarkedFrontends(Classify(group, world.Snapshot)); !slices.Equal(found, []ipvs.Frontend{front}) {
		t.Fatalf("%v need marks", found)
	}
	const mark = ipvs.Marks | 1
	marks := map[ipvs.Frontend]uint32{front: mark}
	backends := []Backend{
		backend("http", "10.0.1.1:8080", "n1", candidate.Ready),
		backend("http", "10.0.2.1:8080", "n2", candidate.Ready),
	}
	plan := func() Forwarding {
		return forward(group, map[string][]Backend{"d/web": backends}, marks, world)
	}
	one, two := ipvs.RealServer{
		Address: backends[0].Address.Addr(),
		Port:    8080,
		Weight:  1,
	}, ipvs.RealServer{
		Address: backends[1].Address.Addr(),
		Port:    8080,
		Weight:  1,
	}
	got := plan()
	want := ipvs.Table{
		front: {
			Settings:    ipvs.Settings{Scheduler: "wlc", PersistenceTimeout: time.Hour},
			RealServers: []ipvs.RealServer{one},
		},
		// By mark there is no persistence; Maglev by the client's address alone comes next to it.
		ipvs.Marked(mark, front.Address): {
			Settings:    ipvs.Settings{Scheduler: "mh", Flags: ipvs.Fallback},
			RealServers: []ipvs.RealServer{one, two},
		},
	}
	if diff := cmp.Diff(want, got.Table, equalAddresses); diff != "" {
		t.Error(diff)
	}
	if g := got.Guards[0]; g.Mark != mark || g.Masquerade {
		t.Errorf("the guard has %+v, want mark %#x and no masquerade for others", g, mark)
	}
	world.Capabilities = Capability("wlc", "sh")
	if v := plan().Table[ipvs.Marked(mark, front.Address)]; v.Scheduler != "sh" || v.Flags != ipvs.Fallback {
		t.Errorf("without Maglev it is %+v", v.Settings)
	}
	// Where the node has no endpoint, the virtual server by mark stays as it is: connections go on.
	before := plan().Table[ipvs.Marked(mark, front.Address)]
	backends[0].Node = "n3"
	if diff := cmp.Diff(before, plan().Table[ipvs.Marked(mark, front.Address)], equalAddresses); diff != "" {
		t.Error(diff)
	}
	for _, change := range []func(*Service){func(s *Service) { s.Local = false }, func(s *Service) { s.Proxied = false }} {
		other := s
		change(&other)
		if found := MarkedFrontends(Classify(Group{Services: []Service{other}}, world.Snapshot)); len(found) > 0 {
			t.Errorf("%+v needs marks for %v", other, found)
		}
	}
}

func TestPlanAnnouncements_capabilities(t *testing.T) {
	service := Service{
		Name:      "d/web",
		Addresses: addrs("192.0.2.1"),
		Proxied:   true,
		Scheduler: "mh",
		Ports:     []Port{{"http", ipvs.TCP, 80}},
	}
	group := Group{ID: "g", Addresses: service.Addresses, Services: []Service{service}}
	w := forwardingWorld()
	plan := announce(group, nil, ready, w)
	for _, segment := range plan.L2 {
		if segment.Needs != Capability("mh") {
			t.Errorf("layer 2 needs %b, want %b", segment.Needs, Capability("mh"))
		}
	}
	if len(plan.L2) != 1 || len(plan.BGP.Routes) != 1 {
		t.Errorf("plan of a node that can: %+v", plan)
	}
	if got := plan.Routed(); !slices.Equal(got, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}) {
		t.Errorf("a node that can is sent packets for %v", got)
	}
	before := forward(group, nil, nil, w)
	w.Capabilities = Capability("rr", "wlc")
	plan = announce(group, nil, ready, w)
	if len(plan.BGP.Routes) != 0 {
		t.Errorf("a node without the scheduler announces %v", plan.BGP.Routes)
	}
	if got := plan.Routed(); len(got) != 0 {
		t.Errorf("a node without the scheduler drops what its pods send to %v on another node", got)
	}
	// It may be so for a moment only: what is established goes on.
	if now := forward(group, nil, nil, w); len(now.Table) != len(before.Table) {
		t.Errorf("a node that says that it cannot forward takes down what it forwards: %v", now)
	}
	group.Services[0].Proxied = false // kube-proxy serves
	plan = announce(group, nil, ready, w)
	for _, segment := range plan.L2 {
		if segment.Needs != 0 {
			t.Errorf("layer 2 needs %b for what kube-proxy serves", segment.Needs)
		}
	}
	if len(plan.BGP.Routes) != 1 {
		t.Errorf("what kube-proxy serves is announced by every node; plan %+v", plan)
	}
}

func TestServing(t *testing.T) {
	one := func(node string, state candidate.State) Backend { return Backend{Node: node, State: state} }
	dead := map[string]bool{"n2": true}
	for _, c := range []struct {
		name     string
		backends []Backend
		want     []bool
	}{
		{
			name:     "another is alive",
			backends: []Backend{one("n1", candidate.Ready), one("n2", candidate.Ready)},
			want:     []bool{true, false},
		},
		{
			name:     "all are on dead nodes",
			backends: []Backend{one("n2", candidate.Ready), one("n2", candidate.Ready)},
			want:     []bool{true, true},
		},
		{
			name:     "one that terminates is no substitute",
			backends: []Backend{one("n1", candidate.Serving), one("n2", candidate.Ready)},
			want:     []bool{false, true},
		},
		{
			name:     "of those that terminate, too",
			backends: []Backend{one("n1", candidate.Serving), one("n2", candidate.Serving)},
			want:     []bool{true, false},
		},
		{
			name:     "outside of the cluster nobody is dead",
			backends: []Backend{one("", candidate.Ready), one("n2", candidate.Ready)},
			want:     []bool{true, false},
		},
	} {
		takes := serving(c.backends, dead)
		for i, b := range c.backends {
			if got := takes(b); got != c.want[i] {
				t.Errorf("%s: backend %d gets new connections: %v, want %v", c.name, i, got, c.want[i])
			}
		}
	}
}

// A Service whose source ranges are too many for the kernel is closed. Others keep theirs.
func TestLimitSources(t *testing.T) {
	ranges := func(n int) []netip.Prefix {
		found := make([]netip.Prefix, n)
		for i := range found {
			found[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		}
		return found
	}
	of := func(name string, scheduler string, n int) ClassifiedService {
		return ClassifiedService{
			Service: Service{
				Name:         name,
				Addresses:    []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")},
				Ports:        make([]Port, 8),
				SourceRanges: ranges(n),
			},
			IPVSScheduler: scheduler,
		}
	}
	services := []ClassifiedService{of("d/most", "rr", 4096), of("d/more", "rr", 4097), of("d/proxied", "", 4097)}
	limited, complaint := LimitSources(services)
	for i, want := range []int{4096, 0, 4097} {
		if got := limited[i].SourceRanges; len(got) != want || got == nil {
			t.Errorf("%s has %d ranges, want %d", limited[i].Name, len(got), want)
		}
	}
	if !strings.HasPrefix(complaint, "Service d/more: nobody can connect, because 4097 spec.loadBalancerSourceRanges") {
		t.Errorf("complaint %q", complaint)
	}
	if len(services[1].SourceRanges) != 4097 {
		t.Error("the Services of the caller changed")
	}
	if limited, complaint = LimitSources(services[:1]); complaint != "" || len(limited) != 1 {
		t.Errorf("complaint %q about what is possible", complaint)
	}
}
