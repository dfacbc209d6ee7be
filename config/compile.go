package config

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"

	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// Objects is a set of configuration objects, in any order. They are read only.
type Objects struct {
	Pools                []*v1alpha1.LoadBalancerPool
	SegmentAnnouncements []*v1alpha1.SegmentAnnouncement
	RouteAnnouncements   []*v1alpha1.RouteAnnouncement
	BGPNeighbors         []*v1alpha1.BGPNeighbor
	// Passwords of the Secrets of type kubernetes.io/basic-auth in Berth's namespace, by name.
	Passwords map[string]string
	// Before is the Snapshot that is in effect, or nil. A BGPNeighbor whose Secret is gone, or holds
	// no password any more, keeps the password that it has there: to delete a Secret is no order to
	// end sessions.
	Before *Snapshot
}

// Differ reports whether two versions of a configuration object differ in what is compiled. A
// status is not.
func Differ(before, after metav1.Object) bool {
	return before.GetGeneration() != after.GetGeneration() || before.GetUID() != after.GetUID() ||
		!maps.Equal(before.GetLabels(), after.GetLabels()) ||
		before.GetAnnotations()[v1alpha1.AnnotationRebalance] != after.GetAnnotations()[v1alpha1.AnnotationRebalance]
}

// Key names a configuration object.
type Key struct{ Kind, Name string }

// Problem is something wrong with an object. The rest of the object, and all other objects, stay in
// effect.
type Problem struct {
	// Reason in CamelCase, for the condition.
	Reason string
	// Message names the field, the value and the remedy.
	Message string
	// Harmless: all of the object is in effect nevertheless.
	Harmless bool
}

// Reasons of problems.
const (
	ReasonInvalidAddresses = "InvalidAddresses"
	ReasonConflict         = "Conflict"
	ReasonInvalidSelector  = "InvalidSelector"
	ReasonUnknownPool      = "UnknownPool"
	ReasonUnknownNeighbor  = "UnknownNeighbor"
	ReasonInvalidNeighbor  = "InvalidNeighbor"
	ReasonInvalidInterface = "InvalidInterface"
	ReasonMissingSecret    = "MissingSecret"
	ReasonInvalidRoute     = "InvalidRoute"
	ReasonNothingSelected  = "NothingSelected"

	// ReasonInvalidDuration is not in docs/reference/conditions.md: the API server refuses such a
	// duration first, by a rule of its field.
	ReasonInvalidDuration = "InvalidDuration"
)

// Compile returns the Snapshot of the objects and what is wrong with each. Every object has an
// entry in the second result, which is empty if all of the object is in effect.
func Compile(objects Objects) (*Snapshot, map[Key][]Problem) {
	c := compiler{
		snapshot:  &Snapshot{pools: map[string]*Pool{}},
		problems:  map[Key][]Problem{},
		passwords: objects.Passwords,
		before:    objects.Before,
		created:   map[Key]time.Time{},
	}
	for _, o := range byAge(objects.Pools) {
		c.pool(o)
	}
	slices.SortFunc(c.snapshot.ranges, func(a, b poolRange) int { return a.From().Compare(b.From()) })
	slices.SortStableFunc(c.snapshot.Pools, func(a, b *Pool) int { return cmp.Compare(b.Priority, a.Priority) })
	for _, o := range byAge(objects.BGPNeighbors) {
		c.neighbor(o)
	}
	for _, o := range byAge(objects.SegmentAnnouncements) {
		c.segmentAnnouncement(o)
	}
	for _, o := range byAge(objects.RouteAnnouncements) {
		c.routeAnnouncement(o)
	}
	return c.snapshot, c.problems
}

type compiler struct {
	snapshot  *Snapshot
	problems  map[Key][]Problem
	passwords map[string]string
	before    *Snapshot // or nil
	created   map[Key]time.Time
	// announcements are the objects of snapshot.routes.
	announcements []*v1alpha1.RouteAnnouncement
}

// byAge sorts objects by precedence: the older first, then by name.
func byAge[T metav1.Object](objects []T) []T {
	sorted := slices.Clone(objects)
	slices.SortFunc(sorted, func(a, b T) int {
		ta, tb := a.GetCreationTimestamp().Time, b.GetCreationTimestamp().Time
		if c := ta.Compare(tb); c != 0 {
			return c
		}
		return strings.Compare(a.GetName(), b.GetName())
	})
	return sorted
}

// begin takes note of an object before it is compiled.
func (c *compiler) begin(kind string, o metav1.Object) Key {
	key := Key{kind, o.GetName()}
	c.problems[key], c.created[key] = nil, o.GetCreationTimestamp().Time
	return key
}

// elder returns the kind and name of the object of two that was compiled first, and that it is the
// older; younger does for the other. Those that no API server has yet, as in files, have no age.
func (c *compiler) elder(first, second Key) string {
	if c.undated(first, second) {
		return first.Kind + " " + first.Name
	}
	return "the older " + first.Kind + " " + first.Name
}

func (c *compiler) younger(first, second Key) string {
	if c.undated(first, second) {
		return second.Kind + " " + second.Name
	}
	return "the younger " + second.Kind + " " + second.Name
}

// undated reports whether no API server has either object yet, so that nobody knows which counts.
func (c *compiler) undated(a, b Key) bool { return c.created[a].IsZero() && c.created[b].IsZero() }

func (c *compiler) report(key Key, reason, format string, args ...any) {
	c.problems[key] = append(c.problems[key], Problem{Reason: reason, Message: fmt.Sprintf(format, args...)})
}

func (c *compiler) pool(o *v1alpha1.LoadBalancerPool) {
	key := c.begin("LoadBalancerPool", o)
	set, err := c.withoutOlder(key, c.ranges(key, "spec.addresses", o.Spec.Addresses)).IPSet()
	if err != nil { // ranges were checked one by one
		return
	}
	pool := &Pool{
		Name:         o.Name,
		Ranges:       set.Ranges(),
		OnRequest:    c.onRequest(key, o.Spec.OnRequestAddresses, set),
		Allocation:   cmp.Or(o.Spec.Allocation, v1alpha1.AllocationAutomatic),
		ExcludeEdges: o.Spec.EdgeAddresses == v1alpha1.EdgeAddressesExclude,
		ShareAcross:  o.Spec.Sharing == v1alpha1.SharingAcrossNamespaces,
		TakeOver:     o.Spec.TakeOver == v1alpha1.TakeOverAlways,
		labels:       o.Labels,
	}
	if o.Spec.Priority != nil {
		pool.Priority = *o.Spec.Priority
	}
	if o.Spec.Dataplane == v1alpha1.DataplaneIPVS {
		pool.Scheduler, pool.DrainTimeout = "rr", defaultDrainTimeout
		if settings := o.Spec.IPVS; settings != nil {
			pool.Scheduler = cmp.Or(string(settings.Scheduler), pool.Scheduler)
			pool.DrainTimeout = c.duration(
				key,
				ReasonInvalidDuration,
				"ipvs.drainTimeout",
				settings.DrainTimeout,
				pool.DrainTimeout,
			)
		}
	}
	if o.Spec.Dataplane == v1alpha1.DataplaneSteering {
		pool.Steering = steeringOf(o.Spec.Steering)
	}
	if !c.scopes(key, o.Spec.Scopes, pool) {
		// Which Services it was meant to leave out is unknown.
		pool.Allocation = v1alpha1.AllocationDisabled
	}
	for _, r := range pool.Ranges {
		c.snapshot.ranges = append(c.snapshot.ranges, poolRange{r, pool})
	}
	c.snapshot.Pools = append(c.snapshot.Pools, pool)
	c.snapshot.pools[pool.Name] = pool
}

// ranges parses the entries of a field, and reports those that are not valid.
func (c *compiler) ranges(key Key, field string, entries []v1alpha1.AddressRange) *netipx.IPSetBuilder {
	set := &netipx.IPSetBuilder{}
	for i, entry := range entries {
		if r, err := ParseRange(string(entry)); err != nil {
			c.report(key, ReasonInvalidAddresses, "%s[%d]: %v", field, i, err)
		} else {
			set.AddRange(r)
		}
	}
	return set
}

// onRequest parses the addresses of a pool that are given on request only, and reports those that
// the pool does not contain.
func (c *compiler) onRequest(key Key, entries []v1alpha1.AddressRange, pool *netipx.IPSet) []netipx.IPRange {
	set, err := c.ranges(key, "spec.onRequestAddresses", entries).IPSet()
	if err != nil {
		return nil
	}
	for _, r := range set.Ranges() {
		if !pool.ContainsRange(r) {
			c.report(
				key,
				ReasonInvalidAddresses,
				"spec.onRequestAddresses: %s is not all in the pool; write only addresses of spec.addresses",
				formatRange(r),
			)
		}
	}
	var inside netipx.IPSetBuilder
	inside.AddSet(set)
	inside.Intersect(pool)
	set, err = inside.IPSet()
	if err != nil {
		return nil
	}
	return set.Ranges()
}

// scopes compiles the scopes of a pool, and reports whether all are valid.
func (c *compiler) scopes(key Key, scopes []v1alpha1.PoolScope, pool *Pool) bool {
	const then = "the pool gives no addresses until this is fixed"
	if len(scopes) == 0 {
		c.report(
			key,
			ReasonInvalidSelector,
			"spec.scopes is empty, so the pool gives no addresses; write {namespaceSelector: {}, serviceSelector: {}} for all Services",
		)
		return false
	}
	valid := true
	for i, s := range scopes {
		field := fmt.Sprintf("scopes[%d]", i)
		if (len(s.NamespaceNames) > 0) == (s.NamespaceSelector != nil) {
			c.report(
				key,
				ReasonInvalidSelector,
				"spec.%s: write one of namespaceNames and namespaceSelector; %s",
				field,
				then,
			)
			valid = false
			continue
		}
		var compiled scope
		ok := true
		if s.NamespaceSelector == nil {
			compiled.names = map[string]bool{}
			for _, name := range s.NamespaceNames {
				compiled.names[name] = true
			}
		} else {
			compiled.namespaces, ok = c.selector(key, field+".namespaceSelector", s.NamespaceSelector, then)
		}
		services, okServices := c.selector(key, field+".serviceSelector", s.ServiceSelector, then)
		if !ok || !okServices {
			valid = false
			continue
		}
		compiled.services = services
		pool.scopes = append(pool.scopes, compiled)
	}
	return valid
}

// withoutOlder removes from a pool's addresses those of older pools, and reports each overlap to
// both.
func (c *compiler) withoutOlder(key Key, set *netipx.IPSetBuilder) *netipx.IPSetBuilder {
	own, err := set.IPSet()
	if err != nil {
		return set
	}
	for _, other := range c.snapshot.ranges {
		for _, r := range own.Ranges() {
			if !r.Overlaps(other.IPRange) {
				continue
			}
			c.overlap(key, Key{"LoadBalancerPool", other.pool.Name}, formatRange(intersection(r, other.IPRange)))
		}
		set.RemoveRange(other.IPRange)
	}
	return set
}

// overlap reports to two pools that they share a range, which the older keeps.
func (c *compiler) overlap(key, older Key, shared string) {
	keeps, loses := ", which keeps it", ", which does not get it"
	if c.undated(key, older) {
		keeps, loses = ", and only one of them can have it", ", and only one of them can have it"
	}
	c.report(
		key,
		ReasonConflict,
		"spec.addresses: %s is in %s too%s; take it out of one of the two: of %s to have it here",
		shared,
		c.elder(older, key),
		keeps,
		older.Name,
	)
	text := fmt.Sprintf(
		"spec.addresses: %s is in %s too%s; take it out of one of the two", shared, c.younger(older, key), loses,
	)
	c.problems[older] = append(c.problems[older], Problem{Reason: ReasonConflict, Message: text, Harmless: true})
}

// intersection returns the intersection of two ranges that overlap.
func intersection(a, b netipx.IPRange) netipx.IPRange {
	from, to := a.From(), a.To()
	if from.Less(b.From()) {
		from = b.From()
	}
	if b.To().Less(to) {
		to = b.To()
	}
	return netipx.IPRangeFrom(from, to)
}

func formatRange(r netipx.IPRange) string {
	if p, ok := r.Prefix(); ok {
		return p.String()
	}
	return r.String()
}

func (c *compiler) segmentAnnouncement(o *v1alpha1.SegmentAnnouncement) {
	key := c.begin("SegmentAnnouncement", o)
	pools, ok := c.poolSet(key, o.Spec.PoolNames, o.Spec.PoolSelector)
	nodes, okNodes := c.selector(key, "nodeSelector", o.Spec.NodeSelector, noEffect)
	services, okServices := c.selector(key, "serviceSelector", o.Spec.ServiceSelector, noEffect)
	if !ok || !okNodes || !okServices {
		return
	}
	var interfaces []string
	for i, pattern := range o.Spec.Interfaces {
		if _, err := path.Match(pattern, ""); err != nil {
			c.report(
				key,
				ReasonInvalidInterface,
				"spec.interfaces[%d]: %q is not a shell pattern; write a name such as eth0 or a pattern such as bond*",
				i,
				pattern,
			)
			continue
		}
		interfaces = append(interfaces, pattern)
	}
	if len(interfaces) == 0 && len(o.Spec.Interfaces) > 0 {
		return // no interfaces would mean the default ones
	}
	c.snapshot.segments = append(c.snapshot.segments, &SegmentAnnouncement{
		Name:       o.Name,
		Nodes:      nodes,
		Interfaces: interfaces,
		pools:      pools,
		services:   services,
		preferred:  c.preferred(key, o.Spec.PreferredNodes),
	})
}

// preferred compiles the preferences for nodes, and reports those that are invalid.
func (c *compiler) preferred(key Key, entries []v1alpha1.PreferredNode) []preferredNode {
	var compiled []preferredNode
	for i, e := range entries {
		field := fmt.Sprintf("preferredNodes[%d].nodeSelector", i)
		if s, ok := c.selector(key, field, e.NodeSelector, "the entry is not in effect until this is fixed"); ok {
			compiled = append(compiled, preferredNode{s, e.Weight})
		}
	}
	return compiled
}

// noEffect is what happens to an object with an invalid selector: what it was meant to leave out is
// unknown.
const noEffect = "the object is not in effect until this is fixed"

// poolSet compiles which pools an announcement selects.
func (c *compiler) poolSet(key Key, names []string, by *v1alpha1.Selector) (poolSet, bool) {
	set := poolSet{names: map[string]bool{}}
	switch {
	case (len(names) > 0) == (by != nil):
		c.report(
			key,
			ReasonInvalidSelector,
			"spec.poolNames and spec.poolSelector: write one of them, poolSelector: {} for all pools; %s",
			noEffect,
		)
		return set, false
	case by == nil:
		for i, name := range names {
			if c.snapshot.pools[name] == nil {
				set.orphans = true
				c.report(
					key,
					ReasonUnknownPool,
					"spec.poolNames[%d]: no LoadBalancerPool %q exists; %s",
					i,
					name,
					c.snapshot.MeantPool(name, names),
				)
				continue
			}
			set.names[name] = true
		}
		return set, true
	}
	selector, ok := c.selector(key, "poolSelector", by, noEffect)
	if !ok {
		return set, false
	}
	for _, p := range c.snapshot.Pools {
		if selector.Matches(p.labels) {
			set.names[p.Name] = true
		}
	}
	set.orphans = selector.Empty() || len(set.names) == 0
	if !selector.Empty() && len(set.names) == 0 {
		c.report(
			key,
			ReasonNothingSelected,
			"spec.poolSelector: no LoadBalancerPool has these labels; label one so, or change the selector",
		)
	}
	return set, true
}

// selector compiles the label selector of a field. then says what happens if it is invalid.
func (c *compiler) selector(key Key, field string, from *v1alpha1.Selector, then string) (labels.Selector, bool) {
	if from == nil {
		c.report(key, ReasonInvalidSelector, "spec.%s is missing; write {} to select all; %s", field, then)
		return nil, false
	}
	s, err := from.Compile()
	if err != nil {
		c.report(key, ReasonInvalidSelector, "spec.%s: %v; %s", field, err, then)
		return nil, false
	}
	return s, true
}

// duration parses a duration of a field. It returns the default if the field is left out or
// invalid, and reports the latter.
func (c *compiler) duration(key Key, reason, field string, d v1alpha1.Duration, preset time.Duration) time.Duration {
	parsed, err := d.Parse()
	if err != nil {
		c.report(key, reason, "spec.%s: %v; it counts as %s", field, err, preset)
	}
	if err != nil || d == "" {
		return preset
	}
	return parsed
}

// ParseRange parses a prefix, an inclusive range "a-b" or a single address. All addresses must be
// unicast.
func ParseRange(entry string) (netipx.IPRange, error) {
	if from, to, isRange := strings.Cut(entry, "-"); isRange {
		return parseEnds(entry, from, to)
	}
	if _, err := netip.ParseAddr(entry); err == nil {
		return parseEnds(entry, entry, entry)
	}
	prefix, err := netip.ParsePrefix(entry)
	if err != nil {
		return netipx.IPRange{}, fmt.Errorf(
			"%q is not an address (192.0.2.1), a prefix (192.0.2.0/24) or a range (192.0.2.10-192.0.2.20: no spaces, both ends in full)",
			entry,
		)
	}
	if prefix != prefix.Masked() {
		return netipx.IPRange{}, fmt.Errorf("%s has host bits set; write %s", entry, prefix.Masked())
	}
	return checkUnicast(entry, netipx.RangeOfPrefix(prefix))
}

func parseEnds(entry, from, to string) (netipx.IPRange, error) {
	a, err := netip.ParseAddr(from)
	if err != nil {
		return netipx.IPRange{}, fmt.Errorf("%q: %q is not an IP address", entry, from)
	}
	b, err := netip.ParseAddr(to)
	if err != nil {
		return netipx.IPRange{}, fmt.Errorf("%q: %q is not an IP address", entry, to)
	}
	switch {
	case a.Zone() != "" || b.Zone() != "":
		return netipx.IPRange{}, fmt.Errorf("%q: an address of a pool has no zone", entry)
	case a.BitLen() != b.BitLen():
		return netipx.IPRange{}, fmt.Errorf("%q: both ends of a range are of one family", entry)
	case b.Less(a):
		return netipx.IPRange{}, fmt.Errorf("%q is reversed; write %s-%s", entry, b, a)
	}
	return checkUnicast(entry, netipx.IPRangeFrom(a, b))
}

// checkUnicast refuses ranges with addresses that no host may have.
func checkUnicast(entry string, r netipx.IPRange) (netipx.IPRange, error) {
	for _, n := range notUnicast {
		if r.Overlaps(netipx.RangeOfPrefix(n.prefix)) {
			return netipx.IPRange{}, fmt.Errorf("%q overlaps %s (%s); take it out", entry, n.prefix, n.what)
		}
	}
	return r, nil
}

// notUnicast lists the prefixes that no Service can have: RFC 6890, RFC 4291.
var notUnicast = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
	{netip.MustParsePrefix("::/128"), "unspecified"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("::ffff:0:0/96"), "IPv4-mapped"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}
