package nodes

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/internal/probe"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/speaker/object"
)

const (
	// maxPeers is to how many other nodes each one measures the path.
	maxPeers = 8
	// passwords is where the Secrets with passwords are in a probe's pod.
	passwords = "/run/berth-passwords"
)

// Plan is what the probes of a cluster are to do.
type Plan struct {
	// Requests by node, ascending.
	Requests []probe.Request
	// Snapshot is the configuration that they are about.
	Snapshot *config.Snapshot
	// IPVS: a pool asks for it.
	IPVS bool
	// Given are the addresses that Services had, or speakers answered for, before the probes ran.
	Given map[netip.Addr]bool
	// Silent are the InternalIPs of nodes that are not asked and have no speaker that says their MAC
	// addresses: they are asked for, and what answers is that node.
	Silent map[netip.Addr]string
	// Takes is how long the questions for addresses take, beside the rest.
	Takes time.Duration
	// Hearing is as probe.Hearing, if there are so many nodes that they speak more seldom.
	Hearing time.Duration
	// Facts say what is asked, and Unknown which nodes are not.
	Facts, Unknown []string
}

// PasswordFile is where the password of a Secret is in a probe's pod.
func PasswordFile(secret string) string {
	return path.Join(PasswordFolder(secret), corev1.BasicAuthPasswordKey)
}

// PasswordFolder is the folder of PasswordFile.
func PasswordFolder(secret string) string { return path.Join(passwords, secret) }

// Secrets are the names of the Secrets whose passwords a probe tries.
func Secrets(r probe.Request) []string {
	var names []string
	for _, x := range r.Routers {
		if x.PasswordFile != "" && !slices.Contains(names, x.Secret) {
			names = append(names, x.Secret)
		}
	}
	return names
}

// PlanOf plans what each Linux node that is Ready does. pools are the names of those to look at,
// and rate is how many questions all together send on a segment in a second, from 1 to MaxRate.
func PlanOf(s *cluster.State, snapshot *config.Snapshot, pools []string, rate int) *Plan {
	p := &Plan{Snapshot: snapshot, Given: given(s), Silent: map[netip.Addr]string{}}
	var chosen []*config.Pool
	for _, name := range pools {
		if pool := snapshot.Pool(name); pool != nil {
			p.IPVS = p.IPVS || pool.Scheduler != ""
			if asked(snapshot, pool) {
				chosen = append(chosen, pool)
			} else {
				p.Facts = append(p.Facts, fmt.Sprintf(
					"pool %s is announced by BGP alone: nobody on the segments was asked for its addresses", name,
				))
			}
		}
	}
	samples := sampled(chosen)
	nodes := p.choose(s)
	p.uncalled(snapshot, nodes)
	p.Requests = make([]probe.Request, len(nodes))
	var asking []asker
	for i, n := range nodes {
		r := probe.Request{
			Node: n.Name, Cluster: clusterOf(s), InternalIPs: object.InternalIPs(n), Speaks: speaks(s, n.Name),
			Interfaces: []string{""}, Routers: routers(s, snapshot, n), Peers: peers(nodes, i),
			IPVS: p.IPVS,
		}
		asks := asksOf(snapshot, samples, n)
		for _, a := range asks {
			r.Interfaces = append(r.Interfaces, a.Interfaces...)
		}
		slices.Sort(r.Interfaces)
		r.Interfaces = slices.Compact(r.Interfaces)
		p.Requests[i] = r
		if len(asks) > 0 {
			asks = append(asks, p.silentAsk(r.Interfaces)...)
			asking = append(asking, askerOf(s, &p.Requests[i], asks))
		}
	}
	p.greet(rate)
	facts, unknown := appoint(asking, rate)
	p.Takes, p.Unknown = takes(p.Requests), append(p.Unknown, unknown...)
	if len(p.Requests) > 0 {
		p.Facts = slices.Concat(p.Facts, scope(samples), facts)
	}
	return p
}

// greet says how often probes send messages where no speaker does, so that all keep to the rate.
func (p *Plan) greet(rate int) {
	pause := max(probe.HelloInterval, time.Duration(len(p.Requests))*time.Second/time.Duration(rate))
	for i := range p.Requests {
		p.Requests[i].Greet = pause
	}
	p.Hearing = max(probe.Hearing, 4*pause) // some may be lost
}

// given returns the addresses that Services have, and that speakers say they answer for.
func given(s *cluster.State) map[netip.Addr]bool {
	all := map[netip.Addr]bool{}
	for _, svc := range s.Services {
		if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
			for _, a := range service.AddressesIn(svc) {
				all[a] = true
			}
		}
	}
	for _, o := range s.Owners {
		if a, err := netip.ParseAddr(o.Status.Address); err == nil && o.Status.NodeName != "" {
			all[a] = true
		}
	}
	return all
}

// asked reports whether the addresses of a pool are asked for. One that BGP alone announces has no
// segment, and one that nothing announces may be meant for one.
func asked(snapshot *config.Snapshot, pool *config.Pool) bool {
	return len(snapshot.L2Of(pool)) > 0 || len(snapshot.AnnouncementsOf(pool)) == 0
}

// asksOf returns the addresses that a node may announce, and on which interfaces.
func asksOf(snapshot *config.Snapshot, samples []sample, n *corev1.Node) []probe.Ask {
	var asks []probe.Ask
	for _, s := range samples {
		interfaces := interfacesOf(snapshot, s.pool, n)
		if len(interfaces) == 0 || s.taken == 0 {
			continue
		}
		i := slices.IndexFunc(asks, func(a probe.Ask) bool { return slices.Equal(a.Interfaces, interfaces) })
		if i < 0 {
			asks = append(asks, probe.Ask{Interfaces: interfaces})
			i = len(asks) - 1
		}
		asks[i].Ranges = append(asks[i].Ranges, s.part())
	}
	return asks
}

func interfacesOf(snapshot *config.Snapshot, pool *config.Pool, n *corev1.Node) []string {
	announcements := snapshot.L2Of(pool)
	if len(announcements) == 0 {
		return []string{""}
	}
	return config.PatternsOf(announcements, n.Labels)
}

// speaks returns the interfaces on which the speaker of a node sends hellos.
func speaks(s *cluster.State, node string) []string {
	speaker := s.Speaker(node)
	runs := slices.ContainsFunc(s.Pods, func(p *corev1.Pod) bool {
		return p.Spec.NodeName == node && p.Labels[cluster.ComponentLabel] == "speaker" &&
			p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil
	})
	if speaker == nil || !runs {
		return nil
	}
	if state, _ := speaker.Status.State(); state.Ended() || state == v1alpha1.SpeakerPending {
		return nil
	}
	var names []string
	for _, x := range speaker.Status.Segments {
		names = append(names, x.Interface)
	}
	return names
}

func clusterOf(s *cluster.State) string {
	for _, n := range s.Namespaces {
		if n.Name == metav1.NamespaceSystem {
			return string(n.UID)
		}
	}
	return ""
}

// peers returns the nodes after this one, in a ring.
func peers(nodes []*corev1.Node, self int) []probe.Peer {
	var all []probe.Peer
	for i := 1; i < len(nodes) && len(all) < maxPeers; i++ {
		n := nodes[(self+i)%len(nodes)]
		all = append(all, probe.Peer{Node: n.Name, Addresses: object.InternalIPs(n)})
	}
	return all
}

// routers returns those that a node calls.
func routers(s *cluster.State, snapshot *config.Snapshot, n *corev1.Node) []probe.Router {
	var all []probe.Router
	for _, x := range snapshot.NeighborsOf(labels.Set(n.Labels)) {
		if !x.Address.IsValid() || x.Passive {
			continue
		}
		r := probe.Router{
			Neighbor: x.Name, Address: x.Address, Port: x.Port, Source: x.SourceAddress, VRF: x.VRF,
			LocalASN: x.LocalASN, RemoteASN: x.RemoteASN,
			EBGPMultihop: x.EBGPMultihop, TTLSecurityHops: x.TTLSecurityHops,
		}
		for _, o := range s.BGPNeighbors {
			if o.Name == x.Name {
				r.Secret = o.Spec.Authentication.TCPMD5.SecretName
			}
		}
		all = append(all, r)
	}
	return all
}

// TryPasswords has the probes try the passwords of routers.
func (p *Plan) TryPasswords() {
	for i := range p.Requests {
		for j := range p.Requests[i].Routers {
			if r := &p.Requests[i].Routers[j]; r.Secret != "" {
				r.PasswordFile = PasswordFile(r.Secret)
			}
		}
	}
}

// HasPasswords reports whether a router has one.
func (p *Plan) HasPasswords() bool {
	return slices.ContainsFunc(p.Requests, func(r probe.Request) bool {
		return slices.ContainsFunc(r.Routers, func(x probe.Router) bool { return x.Secret != "" })
	})
}
