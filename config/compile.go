package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"

	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// Objects is a set of configuration objects, in any order. They are read only.
type Objects struct {
	Pools             []*v1alpha1.IPPool
	L2Advertisements  []*v1alpha1.L2Advertisement
	BGPAdvertisements []*v1alpha1.BGPAdvertisement
	BGPPeers          []*v1alpha1.BGPPeer
	// Passwords of the Secrets of type kubernetes.io/basic-auth in Berth's namespace,
	// by name.
	Passwords map[string]string
}

// Key names a configuration object.
type Key struct{ Kind, Name string }

// Problem is something wrong with an object. The rest of the object, and all other
// objects, stay in effect.
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
	ReasonUnknownPeer      = "UnknownPeer"
	ReasonInvalidPeer      = "InvalidPeer"
	ReasonInvalidInterface = "InvalidInterface"
	ReasonMissingSecret    = "MissingSecret"
	ReasonInvalidRoute     = "InvalidRoute"
)

// Compile returns the Snapshot of the objects and what is wrong with each. Every
// object that was given has an entry in the second result, empty when all of it is
// in effect.
func Compile(objects Objects) (*Snapshot, map[Key][]Problem) {
	c := compiler{
		snapshot:  &Snapshot{pools: map[string]*Pool{}},
		problems:  map[Key][]Problem{},
		passwords: objects.Passwords,
	}
	for _, o := range byAge(objects.Pools) {
		c.pool(o)
	}
	slices.SortFunc(c.snapshot.ranges, func(a, b poolRange) int { return a.From().Compare(b.From()) })
	slices.SortStableFunc(c.snapshot.Pools, func(a, b *Pool) int { return cmp.Compare(b.Priority, a.Priority) })
	for _, o := range byAge(objects.BGPPeers) {
		c.peer(o)
	}
	for _, o := range byAge(objects.L2Advertisements) {
		c.l2Advertisement(o)
	}
	for _, o := range byAge(objects.BGPAdvertisements) {
		c.bgpAdvertisement(o)
	}
	return c.snapshot, c.problems
}

type compiler struct {
	snapshot  *Snapshot
	problems  map[Key][]Problem
	passwords map[string]string
	// advertisements are the objects of snapshot.bgp.
	advertisements []*v1alpha1.BGPAdvertisement
}

// byAge orders objects by precedence: the older first, then by name.
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

func (c *compiler) report(key Key, reason, format string, args ...any) {
	c.problems[key] = append(c.problems[key], Problem{Reason: reason, Message: fmt.Sprintf(format, args...)})
}

func (c *compiler) pool(o *v1alpha1.IPPool) {
	key := Key{"IPPool", o.Name}
	c.problems[key] = nil
	set, ok := c.withoutOlder(key, c.ranges(key, "spec.addresses", o.Spec.Addresses)).IPSet()
	if ok != nil { // ranges were checked one by one
		return
	}
	pool := &Pool{
		Name: o.Name, Ranges: set.Ranges(), Allocation: o.Spec.Allocation, Priority: o.Spec.Priority,
		ExcludeEdges: o.Spec.ExcludeEdgeAddresses, ShareAcross: o.Spec.Sharing == v1alpha1.SharingAcrossNamespaces, TakeOver: o.Spec.TakeOver,
		Reserved: c.reserved(key, o.Spec.Reserved, set),
	}
	if pool.Allocation == "" {
		pool.Allocation = v1alpha1.AllocationAutomatic
	}
	if o.Spec.Dataplane == v1alpha1.DataplaneIPVS {
		pool.Scheduler, pool.DrainTimeout = "rr", defaultDrainTimeout
		if settings := o.Spec.IPVS; settings != nil {
			pool.Scheduler = cmp.Or(string(settings.Scheduler), pool.Scheduler)
			pool.DrainTimeout = cmp.Or(duration(settings.DrainTimeout), pool.DrainTimeout)
		}
	}
	if !c.scopes(key, o.Spec.Scopes, pool) {
		// Whom it was meant to leave out is unknown.
		pool.Allocation = v1alpha1.AllocationDisabled
	}
	for _, r := range pool.Ranges {
		c.snapshot.ranges = append(c.snapshot.ranges, poolRange{r, pool})
	}
	c.snapshot.Pools = append(c.snapshot.Pools, pool)
	c.snapshot.pools[pool.Name] = pool
}

// ranges parses the entries of a field, and reports those that do not parse.
func (c *compiler) ranges(key Key, field string, entries []string) *netipx.IPSetBuilder {
	set := &netipx.IPSetBuilder{}
	for i, entry := range entries {
		if r, err := ParseRange(entry); err != nil {
			c.report(key, ReasonInvalidAddresses, "%s[%d]: %v", field, i, err)
		} else {
			set.AddRange(r)
		}
	}
	return set
}

// reserved parses the reserved addresses of a pool, and reports those that it does
// not hold.
func (c *compiler) reserved(key Key, entries []string, pool *netipx.IPSet) []netipx.IPRange {
	set, err := c.ranges(key, "spec.reserved", entries).IPSet()
	if err != nil {
		return nil
	}
	for _, r := range set.Ranges() {
		if !pool.ContainsRange(r) {
			c.report(key, ReasonInvalidAddresses, "spec.reserved: %s is not all in the pool; reserve only addresses of spec.addresses", formatRange(r))
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

// scopes compiles the scopes of a pool, and tells whether all are valid.
func (c *compiler) scopes(key Key, scopes []v1alpha1.PoolScope, pool *Pool) bool {
	valid := true
	for i := range scopes {
		compiled := scope{namespaces: nameSet{}}
		for _, name := range scopes[i].Namespaces {
			compiled.namespaces[name] = true
		}
		for _, s := range []struct {
			field string
			from  *metav1.LabelSelector
			to    *labels.Selector
		}{
			{"namespaceSelector", scopes[i].NamespaceSelector, &compiled.namespaceSelector},
			{"serviceSelector", scopes[i].ServiceSelector, &compiled.serviceSelector},
		} {
			*s.to = labels.Everything()
			if s.from == nil {
				continue
			}
			selector, err := metav1.LabelSelectorAsSelector(s.from)
			if err != nil {
				c.report(key, ReasonInvalidSelector, "spec.scopes[%d].%s: %v; the pool gives no addresses until this is mended", i, s.field, err)
				valid = false
				continue
			}
			*s.to = selector
		}
		pool.scopes = append(pool.scopes, compiled)
	}
	return valid
}

// withoutOlder takes out of a pool's addresses what older pools hold, and reports
// each overlap, to both.
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
			shared := formatRange(intersection(r, other.IPRange))
			c.report(key, ReasonConflict, "spec.addresses: %s is in the older IPPool %s too, which keeps it; take it out of one of the two", shared, other.pool.Name)
			winner := Key{"IPPool", other.pool.Name}
			c.problems[winner] = append(c.problems[winner], Problem{Reason: ReasonConflict, Harmless: true,
				Message: fmt.Sprintf("spec.addresses: %s is in the younger IPPool %s too, which does not get it; take it out of one of the two", shared, key.Name)})
		}
		set.RemoveRange(other.IPRange)
	}
	return set
}

// intersection of two ranges that overlap.
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

func (c *compiler) l2Advertisement(o *v1alpha1.L2Advertisement) {
	key := Key{"L2Advertisement", o.Name}
	c.problems[key] = nil
	nodes, ok := c.selectors(key, "nodeSelectors", o.Spec.NodeSelectors)
	services, okServices := c.selectors(key, "serviceSelectors", o.Spec.ServiceSelectors)
	if !ok || !okServices {
		return
	}
	var interfaces []string
	for i, pattern := range o.Spec.Interfaces {
		if _, err := path.Match(pattern, ""); err != nil {
			c.report(key, ReasonInvalidInterface, "spec.interfaces[%d]: %q is no shell pattern; write a name such as eth0 or a pattern such as bond*", i, pattern)
			continue
		}
		interfaces = append(interfaces, pattern)
	}
	if len(interfaces) == 0 && len(o.Spec.Interfaces) > 0 {
		return // no interfaces stands for the default ones, which were not meant
	}
	c.snapshot.l2 = append(c.snapshot.l2, &L2Advertisement{
		Name: o.Name, Nodes: nodes, Interfaces: interfaces, pools: c.poolNames(key, o.Spec.Pools),
		services: services, preferred: c.preferred(key, o.Spec.PreferredNodes),
	})
}

// preferred compiles the preferences for nodes, and reports those that are invalid.
func (c *compiler) preferred(key Key, entries []v1alpha1.PreferredNode) []preferredNode {
	var compiled []preferredNode
	for i := range entries {
		s, err := metav1.LabelSelectorAsSelector(&entries[i].NodeSelector)
		if err != nil {
			c.report(key, ReasonInvalidSelector, "spec.preferredNodes[%d].nodeSelector: %v; the entry is not in effect until this is mended", i, err)
			continue
		}
		compiled = append(compiled, preferredNode{s, entries[i].Weight})
	}
	return compiled
}

func (c *compiler) poolNames(key Key, names []string) nameSet {
	set := nameSet{}
	for i, name := range names {
		set[name] = true
		if c.snapshot.pools[name] == nil {
			c.report(key, ReasonUnknownPool, "spec.pools[%d]: no IPPool %q exists; create it or take the name out", i, name)
		}
	}
	return set
}

// selectors compiles the label selectors of a field. An invalid one puts the whole
// object out of effect, since what it was meant to leave out is unknown.
func (c *compiler) selectors(key Key, field string, selectors []metav1.LabelSelector) ([]labels.Selector, bool) {
	var compiled []labels.Selector
	for i := range selectors {
		s, err := metav1.LabelSelectorAsSelector(&selectors[i])
		if err != nil {
			c.report(key, ReasonInvalidSelector, "spec.%s[%d]: %v; the object is not in effect until this is mended", field, i, err)
			return nil, false
		}
		compiled = append(compiled, s)
	}
	return compiled, true
}

// ParseRange parses a prefix or an inclusive range "a-b" of unicast addresses.
func ParseRange(entry string) (netipx.IPRange, error) {
	if from, to, isRange := strings.Cut(entry, "-"); isRange {
		return parseEnds(entry, from, to)
	}
	prefix, err := netip.ParsePrefix(entry)
	if err != nil {
		return netipx.IPRange{}, fmt.Errorf("%q is no prefix such as 192.0.2.0/24 and no range such as 192.0.2.10-192.0.2.20", entry)
	}
	if prefix != prefix.Masked() {
		return netipx.IPRange{}, fmt.Errorf("%s has host bits set; write %s", entry, prefix.Masked())
	}
	return checkUnicast(entry, netipx.RangeOfPrefix(prefix))
}

func parseEnds(entry, from, to string) (netipx.IPRange, error) {
	a, err := netip.ParseAddr(from)
	if err != nil {
		return netipx.IPRange{}, fmt.Errorf("%q: %q is no IP address", entry, from)
	}
	b, err := netip.ParseAddr(to)
	if err != nil {
		return netipx.IPRange{}, fmt.Errorf("%q: %q is no IP address", entry, to)
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

// checkUnicast refuses ranges that hold addresses no host may have.
func checkUnicast(entry string, r netipx.IPRange) (netipx.IPRange, error) {
	for _, p := range notUnicast {
		if r.Overlaps(netipx.RangeOfPrefix(p)) {
			return netipx.IPRange{}, fmt.Errorf("%q overlaps %s (unspecified, loopback, link-local, multicast, reserved or IPv4-mapped); a pool holds unicast addresses", entry, p)
		}
	}
	return r, nil
}

// notUnicast lists the prefixes that no Service can have: RFC 6890, RFC 4291.
var notUnicast = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"), netip.MustParsePrefix("::/127"), netip.MustParsePrefix("::ffff:0:0/96"),
	netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// unicast tells whether a host can have the address.
func unicast(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
