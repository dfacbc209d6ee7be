package migrate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/berth-lb/berth/config/v1alpha1"
)

type ciliumCluster struct {
	NodeSelector *metav1.LabelSelector `json:"nodeSelector,omitempty"`
	BGPInstances []ciliumInstance      `json:"bgpInstances,omitempty"`
}

type ciliumInstance struct {
	Name      string       `json:"name,omitempty"`
	LocalASN  int64        `json:"localASN,omitempty"`
	LocalPort int64        `json:"localPort,omitempty"`
	RouterID  string       `json:"routerID,omitempty"` // of a CiliumBGPNodeConfigOverride
	Peers     []ciliumPeer `json:"peers,omitempty"`
}

type ciliumPeer struct {
	Name          string `json:"name,omitempty"`
	PeerAddress   string `json:"peerAddress,omitempty"`
	PeerASN       int64  `json:"peerASN,omitempty"`
	AutoDiscovery *struct {
		Mode           string         `json:"mode,omitempty"`
		DefaultGateway map[string]any `json:"defaultGateway,omitempty"`
		Unnumbered     struct {
			Interface string `json:"interface,omitempty"`
		} `json:"unnumbered,omitzero"`
	} `json:"autoDiscovery,omitempty"`
	PeerConfigRef struct {
		Name  string `json:"name,omitempty"`
		Group string `json:"group,omitempty"`
		Kind  string `json:"kind,omitempty"`
	} `json:"peerConfigRef,omitzero"`
	LocalAddress string `json:"localAddress,omitempty"` // of a CiliumBGPNodeConfigOverride
	LocalPort    int64  `json:"localPort,omitempty"`
}

type ciliumPeerConfig struct {
	Transport struct {
		PeerPort  int32 `json:"peerPort,omitempty"`
		LocalPort int32 `json:"localPort,omitempty"`
	} `json:"transport,omitzero"`
	Timers struct {
		ConnectRetryTimeSeconds int64 `json:"connectRetryTimeSeconds,omitempty"`
		HoldTimeSeconds         int64 `json:"holdTimeSeconds,omitempty"`
		KeepAliveTimeSeconds    int64 `json:"keepAliveTimeSeconds,omitempty"`
	} `json:"timers,omitzero"`
	AuthSecretRef   string `json:"authSecretRef,omitempty"`
	GracefulRestart struct {
		Enabled            bool  `json:"enabled,omitempty"`
		RestartTimeSeconds int64 `json:"restartTimeSeconds,omitempty"`
	} `json:"gracefulRestart,omitzero"`
	EBGPMultihop int32          `json:"ebgpMultihop,omitempty"`
	Families     []ciliumFamily `json:"families,omitempty"`
}

type ciliumFamily struct {
	AFI            string                `json:"afi,omitempty"`
	SAFI           string                `json:"safi,omitempty"`
	Advertisements *metav1.LabelSelector `json:"advertisements,omitempty"`
}

type ciliumAdvertisements struct {
	Advertisements []ciliumAdvertisement `json:"advertisements,omitempty"`
}

type ciliumAdvertisement struct {
	AdvertisementType string `json:"advertisementType,omitempty"`
	Service           struct {
		Addresses             []string `json:"addresses,omitempty"`
		AggregationLengthIPv4 *int32   `json:"aggregationLengthIPv4,omitempty"`
		AggregationLengthIPv6 *int32   `json:"aggregationLengthIPv6,omitempty"`
	} `json:"service,omitzero"`
	Selector   *metav1.LabelSelector `json:"selector,omitempty"`
	Attributes struct {
		Communities struct {
			Standard  []string `json:"standard,omitempty"`
			WellKnown []string `json:"wellKnown,omitempty"`
			Large     []string `json:"large,omitempty"`
		} `json:"communities,omitzero"`
		LocalPreference *int64 `json:"localPreference,omitempty"`
	} `json:"attributes,omitzero"`
}

// ciliumTargets are the neighbors that have a peer configuration.
type ciliumTargets struct {
	families  []ciliumFamily
	neighbors []string
}

// ciliumBGP converts Cilium's BGP control plane, version 2.
func (c *converter) ciliumBGP() {
	configs := map[string]ciliumPeerConfig{}
	items := map[string]item{}
	for _, i := range c.of(ciliumGroup, "CiliumBGPPeerConfig") {
		if spec, ok := decode[ciliumPeerConfig](c, i.from, "spec", i.spec); ok {
			configs[i.name], items[i.name] = spec, i
			c.say(i.from, Converted, "", "", "fields of the BGPNeighbors that name it")
		}
	}
	var targets []ciliumTargets
	for _, i := range c.of(ciliumGroup, "CiliumBGPClusterConfig") {
		spec, ok := decode[ciliumCluster](c, i.from, "spec", i.spec)
		if !ok {
			continue
		}
		for _, instance := range spec.BGPInstances {
			if instance.LocalPort != 0 {
				c.lacks(
					i.from,
					"bgpInstances "+instance.Name+": localPort",
					instance.LocalPort,
					"speakers connect to their neighbors; for those that must connect themselves write connect: Accept",
				)
			}
			for _, peer := range instance.Peers {
				config, known := configs[peer.PeerConfigRef.Name]
				if name := peer.PeerConfigRef.Name; name != "" && !known {
					c.lacks(i.from, "peers "+peer.Name+": peerConfigRef", name,
						"it is not among these files; the BGPNeighbor has the defaults")
				}
				of, nodes := items[peer.PeerConfigRef.Name], selectorOf(spec.NodeSelector)
				if name := c.ciliumPeer(i, of, nodes, instance, peer, config); name != "" {
					targets = append(targets, ciliumTargets{config.Families, []string{name}})
				}
			}
		}
	}
	for _, i := range c.of(ciliumGroup, "CiliumBGPAdvertisement") {
		if spec, ok := decode[ciliumAdvertisements](c, i.from, "spec", i.spec); ok {
			c.ciliumAdvertisements(i, spec, targets)
		}
	}
	for _, i := range c.of(ciliumGroup, "CiliumBGPNodeConfigOverride") {
		if spec, ok := decode[ciliumCluster](c, i.from, "spec", i.spec); ok {
			c.ciliumOverride(i, spec)
		}
	}
	for _, i := range c.of(ciliumGroup, "CiliumBGPPeeringPolicy") {
		c.lacks(
			i.from,
			"",
			"",
			"it is of the old control plane; write the CiliumBGPClusterConfig that came after it, "+
				"and convert that, or BGPNeighbors",
		)
	}
}

// ciliumPeer makes a BGPNeighbor, and returns its name.
func (c *converter) ciliumPeer(
	i, of item, nodes *v1alpha1.Selector, instance ciliumInstance, peer ciliumPeer, config ciliumPeerConfig,
) string {
	from, field := i.from, "peers "+peer.Name
	spec := v1alpha1.BGPNeighborSpec{
		LocalASN: instance.LocalASN, RemoteASN: peer.PeerASN, Address: strings.TrimSpace(peer.PeerAddress),
		NodeSelector: nodes, Port: config.Transport.PeerPort,
	}
	if spec.Port == 179 {
		spec.Port = 0
	}
	if peer.PeerASN == 0 {
		spec.RemoteType = v1alpha1.RemoteExternal
		c.note(from, field+": peerASN", 0,
			"remoteType: External accepts any AS but our own; write Internal if the router is in ours")
	}
	if discovery := peer.AutoDiscovery; discovery != nil {
		spec.Interface = discovery.Unnumbered.Interface
		if discovery.Mode == "DefaultGateway" {
			c.lacks(from, field+": autoDiscovery", discovery.Mode, "Berth does not look for routers; "+
				"write a BGPNeighbor with the gateway's address, by node if they differ")
			return ""
		}
	}
	times := func(n int64) string {
		if n == 0 {
			return ""
		}
		return string(seconds(n))
	}
	const timers = "spec.timers."
	c.setTimes(of.from, &spec, timers+"holdTimeSeconds", times(config.Timers.HoldTimeSeconds),
		timers+"keepAliveTimeSeconds", times(config.Timers.KeepAliveTimeSeconds))
	spec.ConnectRetryTime = c.wholeSeconds(
		of.from,
		timers+"connectRetryTimeSeconds",
		times(config.Timers.ConnectRetryTimeSeconds),
		shortestRetry,
		longestRetry,
	)
	if config.GracefulRestart.Enabled {
		spec.GracefulRestart = &v1alpha1.GracefulRestart{}
		if n := config.GracefulRestart.RestartTimeSeconds; n != 0 {
			spec.GracefulRestart.RestartTime = seconds(n)
		}
	}
	if config.EBGPMultihop > 1 && !internal(spec) {
		spec.EBGPMultihop = config.EBGPMultihop
	}
	spec.Families = c.ciliumFamilies(of.from, config.Families)
	if config.AuthSecretRef != "" {
		spec.Authentication = tcpMD5(c.copySecret(of, "spec.authSecretRef", "", config.AuthSecretRef))
	}
	o := &v1alpha1.BGPNeighbor{Spec: spec}
	o.Name = c.nameFor("BGPNeighbor", item{from: from, namespace: instance.Name, name: peer.Name}, peer.Name)
	c.add(from, "BGPNeighbor", o)
	return o.Name
}

// ciliumFamilies returns the families of a session; nil for both.
func (c *converter) ciliumFamilies(from string, families []ciliumFamily) (all []v1alpha1.Family) {
	names := map[string]v1alpha1.Family{"ipv4": v1alpha1.IPv4, "ipv6": v1alpha1.IPv6}
	for _, f := range families {
		family, known := names[f.AFI]
		if !known || f.SAFI != "unicast" {
			c.lacks(from, "spec.families", f.AFI+"/"+f.SAFI, "Berth announces unicast routes of IPv4 and IPv6 only")
			continue
		}
		if !slices.Contains(all, family) {
			all = append(all, family)
		}
	}
	if len(all) == 2 {
		return nil
	}
	return all
}

// ciliumAdvertisements announces to the neighbors whose families select the object by its labels.
// A neighbor that only one of its families tells of it gets the pools of that family only.
func (c *converter) ciliumAdvertisements(i item, spec ciliumAdvertisements, targets []ciliumTargets) {
	to := map[string][]string{} // neighbors, by the only family; "" for those that are told of all
	for _, t := range targets {
		selecting := sets.New[string]()
		for _, f := range t.families {
			selector, err := metav1.LabelSelectorAsSelector(f.Advertisements)
			if err == nil && selector.Matches(labels.Set(i.labels)) {
				selecting.Insert(f.AFI)
			}
		}
		families := sets.New[string]()
		for _, f := range t.families {
			families.Insert(f.AFI)
		}
		switch {
		case selecting.Len() == 0:
		case selecting.Len() == families.Len():
			to[""] = append(to[""], t.neighbors...)
		default:
			only := sets.List(selecting)[0]
			to[only] = append(to[only], t.neighbors...)
		}
	}
	if len(to) == 0 {
		c.note(i.from, "metadata.labels", labels.Set(i.labels).String(),
			"no family of a CiliumBGPPeerConfig in use selects it, so nothing is announced")
		return
	}
	for _, family := range slices.Sorted(maps.Keys(to)) {
		all := announcement{pools: everything()}
		if family != "" {
			all = announcement{poolNames: c.ciliumPoolsOf(i, family, to[family])}
			if len(all.poolNames) == 0 {
				continue
			}
		}
		for _, a := range spec.Advertisements {
			c.ciliumAdvertisement(i, a, all, to[family])
		}
	}
}

// ciliumPoolsOf returns the pools whose addresses are of a family only. Berth announces pools, of
// whatever family their addresses are: those with both are left out.
func (c *converter) ciliumPoolsOf(i item, family string, neighbors []string) (names []string) {
	const field = "metadata.labels"
	for _, o := range c.output {
		if o.GetKind() != "LoadBalancerPool" {
			continue
		}
		addresses, _, _ := unstructured.NestedStringSlice(o.Object, "spec", "addresses")
		of := func(text string) bool { return strings.Contains(text, ":") == (family == "ipv6") }
		switch another := func(text string) bool { return !of(text) }; {
		case !slices.ContainsFunc(addresses, another):
			names = append(names, o.GetName())
		case slices.ContainsFunc(addresses, of):
			c.lacks(
				i.from,
				field,
				family,
				fmt.Sprintf("only this family of BGPNeighbor %s selects it, and LoadBalancerPool %s "+
					"has both, so it is left out; make a pool of each family", strings.Join(neighbors, ", "), o.GetName()),
			)
		}
	}
	if len(names) == 0 {
		c.lacks(
			i.from,
			field,
			family,
			fmt.Sprintf("only this family of BGPNeighbor %s selects it, and no pool among these "+
				"files has addresses of it alone, so nothing is announced there; write a RouteAnnouncement with poolNames",
				strings.Join(neighbors, ", ")),
		)
		return nil
	}
	c.note(
		i.from,
		field,
		family,
		fmt.Sprintf("only this family of BGPNeighbor %s selects it, so that only pools of this family "+
			"are announced there; name new ones in poolNames", strings.Join(neighbors, ", ")),
	)
	return names
}

func (c *converter) ciliumAdvertisement(i item, a ciliumAdvertisement, all announcement, to []string) {
	if a.AdvertisementType != "Service" {
		c.lacks(i.from, "advertisementType", a.AdvertisementType,
			"Berth announces addresses of Services only; leave this to Cilium")
		return
	}
	for _, kind := range a.Service.Addresses {
		if kind != "LoadBalancerIP" {
			c.lacks(
				i.from,
				"service.addresses",
				kind,
				"Berth announces addresses of pools only; leave this to Cilium, "+
					"or convert external addresses by --from external-ips",
			)
		}
	}
	if !slices.Contains(a.Service.Addresses, "LoadBalancerIP") {
		return
	}
	if a.Selector == nil {
		c.note(i.from, "selector", "", "without it, Cilium announces nothing, so it is left out")
		return
	}
	services, ok := c.ciliumServices(i.from, "selector", a.Selector)
	if !ok {
		return
	}
	texts := a.Attributes.Communities
	communities, ok := c.communities(
		i.from, "attributes.communities", slices.Concat(texts.Standard, wellKnown(texts.WellKnown), texts.Large),
	)
	if !ok {
		return
	}
	length := func(n *int32) int32 {
		if n == nil {
			return 0
		}
		return max(*n, 1) // 0 is the default route, which is too short, too
	}
	all.nodes, all.services = everything(), services
	c.addRoute(i, i.name, all, v1alpha1.RouteAnnouncementSpec{
		NeighborNames: to, Communities: communities, LocalPreference: a.Attributes.LocalPreference,
		Aggregation: c.aggregation(i.from, "service.aggregationLengthIPv4", "service.aggregationLengthIPv6",
			length(a.Service.AggregationLengthIPv4), length(a.Service.AggregationLengthIPv6)),
	})
}

// wellKnown returns communities with those names replaced that Berth has no name for (IANA, BGP
// Well-known Communities).
func wellKnown(names []string) []string {
	numbers := map[string]string{
		"internet": "0:0", "planned-shut": "65535:0", "route-filter-translated-v4": "65535:2", "route-filter-v4": "65535:3",
		"route-filter-translated-v6": "65535:4", "route-filter-v6": "65535:5", "llgr-stale": "65535:6", "no-llgr": "65535:7",
	}
	var all []string
	for _, name := range names {
		if number := numbers[name]; number != "" {
			name = number
		}
		all = append(all, name)
	}
	return all
}

// ciliumOverride converts what is special about a node, which has the object's name.
func (c *converter) ciliumOverride(i item, spec ciliumCluster) {
	for _, instance := range spec.BGPInstances {
		field := "bgpInstances " + instance.Name
		if instance.RouterID != "" {
			c.addSpeaker(i, i.name, instance.RouterID)
		}
		if instance.LocalASN != 0 {
			c.lacks(i.from, field+": localASN", instance.LocalASN,
				"write a BGPNeighbor for this node, with its localASN, and have the other not select it")
		}
		if instance.LocalPort != 0 {
			c.lacks(i.from, field+": localPort", instance.LocalPort, "speakers listen on port 179, if at all")
		}
		for _, peer := range instance.Peers {
			if peer.LocalAddress != "" {
				c.lacks(i.from, field+": peers "+peer.Name+": localAddress", peer.LocalAddress,
					"write a BGPNeighbor for this node, with its sourceAddress, and have the other not select it")
			}
		}
	}
}
