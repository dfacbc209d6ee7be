package migrate

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/berth-lb/berth/config/dialect"
	"github.com/berth-lb/berth/config/v1alpha1"
)

const metallbGroup = "metallb.io"

type ipAddressPool struct {
	Addresses         []string           `json:"addresses,omitempty"`
	AutoAssign        *bool              `json:"autoAssign,omitempty"`
	AvoidBuggyIPs     bool               `json:"avoidBuggyIPs,omitempty"`
	ServiceAllocation *serviceAllocation `json:"serviceAllocation,omitempty"`
}

type serviceAllocation struct {
	Priority           int64                  `json:"priority,omitempty"`
	Namespaces         []string               `json:"namespaces,omitempty"`
	NamespaceSelectors []metav1.LabelSelector `json:"namespaceSelectors,omitempty"`
	ServiceSelectors   []metav1.LabelSelector `json:"serviceSelectors,omitempty"`
}

// advertisement is an L2Advertisement or a BGPAdvertisement.
type advertisement struct {
	IPAddressPools         []string               `json:"ipAddressPools,omitempty"`
	IPAddressPoolSelectors []metav1.LabelSelector `json:"ipAddressPoolSelectors,omitempty"`
	NodeSelectors          []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
	ServiceSelectors       []metav1.LabelSelector `json:"serviceSelectors,omitempty"`
	Interfaces             []string               `json:"interfaces,omitempty"`
	AggregationLength      int32                  `json:"aggregationLength,omitempty"`
	AggregationLengthV6    int32                  `json:"aggregationLengthV6,omitempty"`
	LocalPref              int64                  `json:"localPref,omitempty"`
	Communities            []string               `json:"communities,omitempty"`
	Peers                  []string               `json:"peers,omitempty"`
}

type bgpPeer struct {
	MyASN                  int64                  `json:"myASN,omitempty"`
	PeerASN                int64                  `json:"peerASN,omitempty"`
	DynamicASN             string                 `json:"dynamicASN,omitempty"`
	PeerAddress            string                 `json:"peerAddress,omitempty"`
	Interface              string                 `json:"interface,omitempty"`
	SourceAddress          string                 `json:"sourceAddress,omitempty"`
	PeerPort               int32                  `json:"peerPort,omitempty"`
	HoldTime               string                 `json:"holdTime,omitempty"`
	KeepaliveTime          string                 `json:"keepaliveTime,omitempty"`
	ConnectTime            string                 `json:"connectTime,omitempty"`
	RouterID               string                 `json:"routerID,omitempty"`
	NodeSelectors          []metav1.LabelSelector `json:"nodeSelectors,omitempty"`
	Password               string                 `json:"password,omitempty"`
	PasswordSecret         secretReference        `json:"passwordSecret,omitzero"`
	BFDProfile             string                 `json:"bfdProfile,omitempty"`
	EnableGracefulRestart  bool                   `json:"enableGracefulRestart,omitempty"`
	EBGPMultiHop           bool                   `json:"ebgpMultiHop,omitempty"`
	VRF                    string                 `json:"vrf,omitempty"`
	DisableMP              bool                   `json:"disableMP,omitempty"`
	DualStackAddressFamily bool                   `json:"dualStackAddressFamily,omitempty"`
}

type secretReference struct {
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"`
}

type bfdProfile struct {
	ReceiveInterval  int64 `json:"receiveInterval,omitempty"`
	TransmitInterval int64 `json:"transmitInterval,omitempty"`
	DetectMultiplier int32 `json:"detectMultiplier,omitempty"`
	EchoInterval     int64 `json:"echoInterval,omitempty"`
	EchoMode         bool  `json:"echoMode,omitempty"`
	PassiveMode      bool  `json:"passiveMode,omitempty"`
	MinimumTTL       int64 `json:"minimumTtl,omitempty"`
}

type communityAliases struct {
	Communities []struct {
		Name  string `json:"name,omitempty"`
		Value string `json:"value,omitempty"`
	} `json:"communities,omitempty"`
}

// metallb is MetalLB's configuration.
type metallb struct {
	*converter
	pools, segments, routes, peers []item
	profiles                       map[string]bfdProfile
	aliases                        map[string]string
}

func fromMetalLB(c *converter) {
	m := &metallb{
		converter: c,
		pools:     c.of(metallbGroup, "IPAddressPool"),
		segments:  c.of(metallbGroup, "L2Advertisement"),
		routes:    c.of(metallbGroup, "BGPAdvertisement"),
		peers:     c.of(metallbGroup, "BGPPeer"),
		profiles:  map[string]bfdProfile{},
		aliases:   map[string]string{},
	}
	for _, i := range c.of(metallbGroup, "BFDProfile") {
		m.bfdProfile(i)
	}
	for _, i := range c.of(metallbGroup, "Community") {
		m.community(i)
	}
	for _, i := range c.of(metallbGroup, "AddressPool") {
		m.addressPool(i)
	}
	m.configMaps()
	m.convertPools()
	for _, i := range m.peers {
		m.peer(i)
	}
	for _, i := range m.segments {
		m.segment(i)
	}
	for _, i := range m.routes {
		m.route(i)
	}
	// The last three are reports of MetalLB's, and not configuration.
	c.unknown(
		metallbGroup,
		"IPAddressPool",
		"AddressPool",
		"L2Advertisement",
		"BGPAdvertisement",
		"BGPPeer",
		"BFDProfile",
		"Community",
		"ConfigurationState",
		"ServiceL2Status",
		"ServiceBGPStatus",
	)
	c.services(metallbManner)
}

var metallbManner = manner{
	Dialect:  dialect.MetalLB,
	prefixes: []string{"metallb.io/", "metallb.universe.tf/"},
	written:  []string{"metallb.io/ip-allocated-from-pool", "metallb.universe.tf/ip-allocated-from-pool"},
}

// convertPools converts the pools, once the priorities of all are known.
func (m *metallb) convertPools() {
	var specs []ipAddressPool
	var valid []item
	priorities := sets.New[int64]()
	for _, i := range m.pools {
		spec, ok := decode[ipAddressPool](m.converter, i.from, "spec", i.spec)
		if !ok {
			continue
		}
		specs, valid = append(specs, spec), append(valid, i)
		if a := spec.ServiceAllocation; a != nil && a.Priority > 0 {
			priorities.Insert(a.Priority)
		}
	}
	selected := m.selectedLabels()
	for n, i := range valid {
		spec := specs[n]
		pool := &v1alpha1.LoadBalancerPool{Spec: v1alpha1.LoadBalancerPoolSpec{Scopes: everyService()}}
		pool.Name = m.nameFor("LoadBalancerPool", i, i.name)
		for key, value := range i.labels {
			if selected.Has(key) {
				metav1.SetMetaDataLabel(&pool.ObjectMeta, key, value)
			}
		}
		pool.Spec.Addresses = m.addressesOf(i.from, "spec.addresses", spec.Addresses, true)
		if spec.AutoAssign != nil && !*spec.AutoAssign {
			pool.Spec.Allocation = v1alpha1.AllocationOnRequest
		}
		if spec.AvoidBuggyIPs {
			pool.Spec.EdgeAddresses = v1alpha1.EdgeAddressesExclude
		}
		if a := spec.ServiceAllocation; a != nil {
			pool.Spec.Scopes = scopesOf(a)
			pool.Spec.Priority = new(reversed(a.Priority, priorities))
			m.note(i.from, "spec.serviceAllocation.priority", a.Priority,
				fmt.Sprintf("it is priority: %d now, since in Berth the highest comes first", *pool.Spec.Priority))
		}
		m.addPool(i, pool)
	}
}

// selectedLabels returns the keys of the labels by which advertisements select pools.
func (m *metallb) selectedLabels() sets.Set[string] {
	keys := sets.New[string]()
	for _, i := range slices.Concat(m.segments, m.routes) {
		selectors, _ := i.spec["ipAddressPoolSelectors"].([]any)
		for _, s := range selectors {
			fields, _ := s.(map[string]any)
			labels, _ := fields["matchLabels"].(map[string]any)
			keys.Insert(slices.Collect(maps.Keys(labels))...)
			expressions, _ := fields["matchExpressions"].([]any)
			for _, e := range expressions {
				expression, _ := e.(map[string]any)
				key, _ := expression["key"].(string)
				keys.Insert(key)
			}
		}
	}
	return keys
}

// reversed returns Berth's priority, of which the highest comes first: MetalLB uses the lowest
// first, and then pools with serviceAllocation and no priority. Pools without serviceAllocation
// come last; they have Berth's default, 0. The steps leave room for pools in between.
func reversed(priority int64, all sets.Set[int64]) int32 {
	const step = 10
	if priority <= 0 {
		return step
	}
	after := 0
	for other := range all {
		if other > priority {
			after++
		}
	}
	return int32(step * (after + 2))
}

// scopesOf returns a scope for each combination of namespaces and selectors of Services.
func scopesOf(a *serviceAllocation) []v1alpha1.PoolScope {
	var namespaces []v1alpha1.PoolScope
	if len(a.Namespaces) > 0 {
		namespaces = append(namespaces, v1alpha1.PoolScope{NamespaceNames: a.Namespaces})
	}
	if len(a.Namespaces) == 0 || len(a.NamespaceSelectors) > 0 {
		for _, s := range anyOf(a.NamespaceSelectors) {
			namespaces = append(namespaces, v1alpha1.PoolScope{NamespaceSelector: s})
		}
	}
	var all []v1alpha1.PoolScope
	for _, scope := range namespaces {
		for _, scope.ServiceSelector = range anyOf(a.ServiceSelectors) {
			all = append(all, scope)
		}
	}
	return all
}

// announcementsOf returns what an advertisement announces.
func (m *metallb) announcementsOf(i item, spec advertisement) []announcement {
	var pools []string
	for _, name := range spec.IPAddressPools {
		pools = append(pools, m.namesOf("LoadBalancerPool", i.namespace, name)...)
	}
	return announcements(pools, spec.IPAddressPoolSelectors, spec.NodeSelectors, spec.ServiceSelectors)
}

func (m *metallb) segment(i item) {
	spec, ok := decode[advertisement](m.converter, i.from, "spec", i.spec)
	if !ok {
		return
	}
	for _, a := range m.announcementsOf(i, spec) {
		m.addSegment(i, i.name, a, spec.Interfaces)
	}
}

func (m *metallb) route(i item) {
	spec, ok := decode[advertisement](m.converter, i.from, "spec", i.spec)
	if !ok {
		return
	}
	texts := slices.Clone(spec.Communities)
	for n, text := range texts {
		if value, is := m.aliases[text]; is {
			texts[n] = value
		}
	}
	communities, ok := m.communities(i.from, "spec.communities", texts)
	if !ok {
		return
	}
	route := v1alpha1.RouteAnnouncementSpec{
		Communities: communities,
		Aggregation: m.aggregation(
			i.from,
			"spec.aggregationLength",
			"spec.aggregationLengthV6",
			spec.AggregationLength,
			spec.AggregationLengthV6,
		),
	}
	if spec.LocalPref != 0 {
		route.LocalPreference = &spec.LocalPref
	}
	for _, name := range spec.Peers {
		route.NeighborNames = append(route.NeighborNames, m.namesOf("BGPNeighbor", i.namespace, name)...)
	}
	if len(route.NeighborNames) == 0 {
		route.NeighborSelector = everything()
	}
	for _, a := range m.announcementsOf(i, spec) {
		m.addRoute(i, i.name, a, route)
	}
}

func (m *metallb) peer(i item) {
	p, ok := decode[bgpPeer](m.converter, i.from, "spec", i.spec)
	if !ok {
		return
	}
	spec := v1alpha1.BGPNeighborSpec{
		LocalASN: p.MyASN, RemoteASN: p.PeerASN, Address: p.PeerAddress, Interface: p.Interface,
		SourceAddress: p.SourceAddress, Port: p.PeerPort, VRF: p.VRF,
	}
	switch p.DynamicASN {
	case "internal":
		spec.RemoteType = v1alpha1.RemoteInternal
	case "external":
		spec.RemoteType = v1alpha1.RemoteExternal
	}
	m.setTimes(i.from, &spec, "spec.holdTime", p.HoldTime, "spec.keepaliveTime", p.KeepaliveTime)
	spec.ConnectRetryTime = m.wholeSeconds(i.from, "spec.connectTime", p.ConnectTime, shortestRetry, longestRetry)
	if p.EBGPMultiHop && internal(spec) {
		m.note(
			i.from,
			"spec.ebgpMultiHop",
			true,
			"it is left out: the session is internal, and may have any number of hops",
		)
	} else if p.EBGPMultiHop {
		spec.EBGPMultihop = 255
	}
	if p.EnableGracefulRestart {
		spec.GracefulRestart = &v1alpha1.GracefulRestart{}
	}
	if address, err := netip.ParseAddr(p.PeerAddress); err == nil && p.DisableMP {
		spec.Families = []v1alpha1.Family{v1alpha1.IPv6}
		if address.Is4() {
			spec.Families = []v1alpha1.Family{v1alpha1.IPv4}
		}
	}
	if p.RouterID != "" {
		m.lacks(
			i.from,
			"spec.routerID",
			p.RouterID,
			"in Berth each node has a router ID of its own; write spec.bgp.routerID of the Speakers, by node, if they need one",
		)
	}
	m.peerBFD(i, p, &spec)
	switch {
	case p.Password != "":
		spec.Authentication = tcpMD5(m.newSecret(i, "spec.password", i.name+"-bgp", p.Password))
	case p.PasswordSecret.Name != "":
		spec.Authentication = tcpMD5(m.copySecret(i, "spec.passwordSecret", i.namespace, p.PasswordSecret.Name))
	}
	nodes := anyOf(p.NodeSelectors)
	if len(nodes) > 1 {
		m.note(i.from, "spec.nodeSelectors", "", fmt.Sprintf(
			"there is a BGPNeighbor for each of the %d selectors: no node may match two of them", len(nodes),
		))
	}
	for _, spec.NodeSelector = range nodes {
		o := &v1alpha1.BGPNeighbor{Spec: spec}
		o.Name = m.nameFor("BGPNeighbor", i, i.name)
		m.add(i.from, "BGPNeighbor", o)
	}
}

// peerBFD sets BFD by the profile that the peer names.
func (m *metallb) peerBFD(i item, p bgpPeer, spec *v1alpha1.BGPNeighborSpec) {
	if p.BFDProfile == "" {
		return
	}
	spec.BFD = &v1alpha1.BFD{}
	profile, known := m.profiles[p.BFDProfile]
	if !known {
		m.lacks(i.from, "spec.bfdProfile", p.BFDProfile, "it is not among these files; BFD has its default times")
		return
	}
	spec.BFD.ReceiveInterval = milliseconds(profile.ReceiveInterval)
	spec.BFD.TransmitInterval = milliseconds(profile.TransmitInterval)
	spec.BFD.Multiplier = profile.DetectMultiplier
	if spec.BFD.Multiplier > mostMultiplier {
		m.lacks(i.from, "spec.bfdProfile", p.BFDProfile, fmt.Sprintf(
			"a detectMultiplier of %d is more than %d, which counts", profile.DetectMultiplier, mostMultiplier,
		))
		spec.BFD.Multiplier = mostMultiplier
	}
}

func (m *metallb) bfdProfile(i item) {
	p, ok := decode[bfdProfile](m.converter, i.from, "spec", i.spec)
	if !ok {
		return
	}
	m.profiles[i.name] = p
	m.say(i.from, Converted, "", "", "spec.bfd of the BGPNeighbors that name it")
	if p.EchoMode {
		m.lacks(
			i.from,
			"spec.echoMode",
			true,
			"Berth sends no echo packets; take it out of the router's configuration, too",
		)
	}
	if p.PassiveMode {
		m.lacks(i.from, "spec.passiveMode", true, "Berth sends first; the router may do so, too")
	}
	if p.MinimumTTL != 0 {
		m.lacks(
			i.from,
			"spec.minimumTtl",
			p.MinimumTTL,
			"write ttlSecurityHops of the BGPNeighbor, which is for BFD, too: 256 less this",
		)
	}
}

func (m *metallb) community(i item) {
	spec, ok := decode[communityAliases](m.converter, i.from, "spec", i.spec)
	if !ok {
		return
	}
	for _, alias := range spec.Communities {
		m.aliases[alias.Name] = alias.Value
	}
	m.say(i.from, Converted, "", "", "spec.communities of the RouteAnnouncements that name it, as numbers")
}
