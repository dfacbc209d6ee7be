package steering

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/dataplane/steering/program"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
)

// services are the Services that are steered, their tables, and what the kernel should have of
// them. It writes nothing: sync returns what is to be written.
type services struct {
	builder   *table.Builder
	locations *locations
	records   map[string]*record // by name
	groups    map[string]*group  // by their members
	dirty     map[*group]bool    // which slots of theirs moved is to be counted again
	owners    map[program.ServiceKey]string
	ids       map[uint32]bool
	names     *serviceNames
	lastID    uint32
	// found are frontends of a process before this one.
	found map[program.ServiceKey]program.Service
	// foundRanges are of it too.
	foundRanges map[program.RangeKey]bool
	// fresh are some tables of this round.
	fresh map[*group]*table.Table
	// read returns the table at a place in the kernel; nil: it is not known.
	read func(location) []decide.Slot
	// begun: the first round is over, and nothing is left of a process before this one.
	begun bool
}

// record is a Service.
type record struct {
	desired Service
	local   bool
	id      uint32
	group   *group // nil: nobody has endpoints
	history table.History
	// left are nodes that are in the group though they have no endpoints any more.
	left map[string]leaver
	// asked is how many second chances there were when slots were to be forgotten last.
	asked uint64
	// keys and ranges are what the kernel has of it.
	keys   map[program.ServiceKey]program.Service
	ranges map[program.RangeKey]bool
}

// group are the Services whose endpoints are on the same nodes. They have one table, which is in
// the kernel only: ten thousand of them take hundreds of MiB.
type group struct {
	key      string
	members  table.Members
	at       location
	sum      uint64 // of the slots in the kernel; 0: not written yet
	services map[string]*record
	// from are the tables of Services that joined in this round.
	from []location
}

// newServices takes over what a process before this one left.
func newServices(
	found map[program.ServiceKey]program.Service,
	ranges map[program.RangeKey]bool,
	pages []uint32,
	read func(location) []decide.Slot,
) *services {
	s := &services{
		builder: table.NewBuilder(), locations: newLocations(pages),
		records: map[string]*record{}, groups: map[string]*group{}, dirty: map[*group]bool{},
		owners: map[program.ServiceKey]string{}, fresh: map[*group]*table.Table{},
		ids: map[uint32]bool{}, names: newServiceNames(), found: found, foundRanges: ranges,
		read: read,
	}
	for _, v := range found {
		s.lastID = max(s.lastID, v.ID)
	}
	return s
}

// tableWrite is a table, which is computed as it is written.
type tableWrite struct {
	at    location
	slots func() []decide.Slot
}

// changes are what is to be written, in this order, and what is to be deleted after it.
type changes struct {
	newPages  []uint32
	tables    []tableWrite
	ranges    []program.RangeKey
	put       map[program.ServiceKey]program.Service
	del       map[program.ServiceKey]bool
	delRanges []program.RangeKey
	forget    []uint32 // Services' ids, whose counters go with the next Refresh
	delPages  []uint32
}

func newChanges() changes {
	return changes{put: map[program.ServiceKey]program.Service{}, del: map[program.ServiceKey]bool{}}
}

// empty reports whether no packet would go elsewhere.
func (c changes) empty() bool {
	return len(c.tables)+len(c.ranges)+len(c.put)+len(c.del)+len(c.delRanges) == 0
}

// sync returns what is to be written so that the kernel has what is desired, and what is wrong with
// single Services, which stay as they were. Again: nodes have changed, so all is to be computed
// again.
// Asked returns how many packets of each Service this node sent to others as their second chance;
// nil: that cannot be known now.
func (s *services) sync(
	d Desired, nodes map[string]uint16, again bool, now time.Time, asked func() map[uint32]uint64,
) (changes, failures) {
	c := newChanges()
	clear(s.fresh)
	if again {
		s.builder.Forget()
	}
	for name := range s.records {
		if _, ok := d.Services[name]; !ok {
			s.remove(name, &c)
		}
	}
	var changed []string
	for name, desired := range d.Services {
		if r := s.records[name]; r == nil || again || !r.desired.equal(desired) || r.lingered(now) {
			changed = append(changed, name)
		}
	}
	failed := s.bring(changed, d, nodes, now, &c)
	s.forget(now, asked)
	s.mark(nodes, &c)
	if !s.begun {
		s.removeFound(&c)
	}
	c.delPages = s.locations.endRound()
	return c, failed
}

// update is sync of these Services alone. Some may be gone.
func (s *services) update(
	d Desired, nodes map[string]uint16, names []string, now time.Time,
) (changes, failures) {
	c := newChanges()
	clear(s.fresh)
	var changed []string
	for _, name := range names {
		desired, ok := d.Services[name]
		switch r := s.records[name]; {
		case !ok && r != nil:
			s.remove(name, &c)
		case ok && (r == nil || !r.desired.equal(desired)):
			changed = append(changed, name)
		}
	}
	failed := s.bring(changed, d, nodes, now, &c)
	s.mark(nodes, &c)
	c.delPages = s.locations.endRound()
	return c, failed
}

// failures are what is wrong with single Services, by name.
type failures map[string]error

func (f failures) err() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(f)) {
		errs = append(errs, fmt.Errorf("Service %s: %w", name, f[name]))
	}
	return errors.Join(errs...)
}

// bring brings Services to what is desired, and returns what is wrong with some.
func (s *services) bring(
	names []string, d Desired, nodes map[string]uint16, now time.Time, c *changes,
) failures {
	slices.Sort(names)
	failed := failures{}
	for range 2 { // what one wants another may have given up in the first round
		for _, name := range slices.Compact(names) {
			if err := s.change(name, d.Services[name], d.Self, nodes, now, c); err != nil {
				failed[name] = err
			} else {
				delete(failed, name)
			}
		}
		names = slices.Sorted(maps.Keys(failed))
	}
	return failed
}

// removeFound removes what a process before this one left and nobody wants.
func (s *services) removeFound(c *changes) {
	for k, v := range s.found {
		s.drop(k, c)
		if !s.ids[v.ID] {
			c.forget = append(c.forget, v.ID)
		}
	}
	slices.Sort(c.forget)
	c.forget = slices.Compact(c.forget)
	for _, k := range c.ranges {
		delete(s.foundRanges, k)
	}
	for k := range s.foundRanges {
		c.delRanges = append(c.delRanges, k)
	}
	s.found, s.foundRanges, s.begun = nil, nil, true
}

// change brings one Service to what is desired.
func (s *services) change(
	name string,
	desired Service,
	self string,
	nodes map[string]uint16,
	now time.Time,
	c *changes,
) error {
	r := s.records[name]
	members := reachable(desired.Members, nodes)
	if err := s.conflict(name, desired); err != nil {
		return err
	}
	if r == nil {
		r = &record{} // it may have connections: of a time in which it was not steered
		r.id = s.idFor(desired)
	}
	members = r.withLeavers(members, self, nodes, now)
	g, err := s.join(r, members, nodes, c)
	if err != nil {
		return err
	}
	if g != nil && g != r.group {
		var old *table.Table
		if r.group != nil {
			old = s.tableOf(r.group)
		}
		r.history = r.history.Next(old, s.tableOf(g), now)
		s.dirty[g] = true
		if at, ok := s.placeOf(r, desired); ok && at != g.at && !slices.Contains(g.from, at) {
			g.from = append(g.from, at)
		}
	}
	if g == nil {
		r.history = table.History{} // those that come back may have connections
	}
	if r.group != g {
		s.leave(name, r)
		if r.group = g; g != nil {
			g.services[name] = r
		}
	}
	s.records[name] = r
	s.names.put(r.id, name)
	r.desired, r.local = clone(desired), isLocal(members, self)
	s.enter(name, r, c)
	return nil
}

// placeOf returns where the kernel has the table of a Service, perhaps of a process before this
// one.
func (s *services) placeOf(r *record, desired Service) (at location, ok bool) {
	if r.group != nil {
		return r.group.at, true
	}
	for _, f := range desired.Frontends {
		if found, ok := s.found[keyOf(f)]; ok {
			return location{found.Page, found.Start}, true
		}
	}
	return location{}, false
}

// maxFresh is how many tables are kept in a round, of 32 KiB each.
const maxFresh = 256

// tableOf is the table of a group: of this round, or built again.
func (s *services) tableOf(g *group) *table.Table {
	t := s.fresh[g]
	if t == nil {
		t = s.builder.Build(g.members)
		s.keep(g, t)
	}
	return t
}

func (s *services) keep(g *group, t *table.Table) {
	if len(s.fresh) >= maxFresh {
		clear(s.fresh)
	}
	s.fresh[g] = t
}

func clone(s Service) Service {
	s.Frontends, s.Members = slices.Clone(s.Frontends), slices.Clone(s.Members)
	s.SourceRanges = slices.Clone(s.SourceRanges)
	return s
}

// reachable are the members that there is a way to.
func reachable(members []table.Member, nodes map[string]uint16) table.Members {
	var kept []table.Member
	for _, m := range members {
		if _, ok := nodes[m.Node]; ok {
			kept = append(kept, m)
		}
	}
	return table.Normalize(kept)
}

func isLocal(members table.Members, self string) bool {
	return slices.ContainsFunc(members, func(m table.Member) bool { return m.Node == self && !m.Draining })
}

// conflict refuses a frontend that another Service has.
func (s *services) conflict(name string, desired Service) error {
	for _, f := range desired.Frontends {
		if owner := s.owners[keyOf(f)]; owner != "" && owner != name {
			return fmt.Errorf("%s is steered for Service %s already", f.Address, owner)
		}
	}
	return nil
}

func keyOf(f Frontend) program.ServiceKey {
	k := program.ServiceKey{Address: program.AddressOf(f.Address.Addr()), Protocol: f.Protocol}
	binary.BigEndian.PutUint16(k.Port[:], f.Address.Port())
	return k
}

// idFor is the number that a Service's packets are counted by: the one that it had, or a new one.
func (s *services) idFor(desired Service) uint32 {
	for _, f := range desired.Frontends {
		if found, ok := s.found[keyOf(f)]; ok && !s.ids[found.ID] {
			s.ids[found.ID] = true
			return found.ID
		}
	}
	s.lastID++
	s.ids[s.lastID] = true
	return s.lastID
}

// join returns the group of these members; nil if there are none.
func (s *services) join(r *record, members table.Members, nodes map[string]uint16, c *changes) (*group, error) {
	if len(members) == 0 {
		return nil, nil
	}
	key := keyOfMembers(members, nodes)
	if g := s.groups[key]; g != nil {
		return g, nil
	}
	var old *table.Table
	if r.group != nil {
		old = s.tableOf(r.group)
	}
	t := s.builder.Change(old, members)
	slots := pack(t, nodes)
	if err := check(members, slots); err != nil {
		return nil, err
	}
	at, fresh, ok := s.locations.take()
	if !ok {
		return nil, errors.New("no place is left for its table")
	}
	if fresh {
		c.newPages = append(c.newPages, at.page)
	}
	g := &group{key: key, members: members, at: at, services: map[string]*record{}}
	s.keep(g, t)
	s.groups[key], s.dirty[g] = g, true
	return g, nil
}

// keyOfMembers identifies a table: by nodes and their indices.
func keyOfMembers(members table.Members, nodes map[string]uint16) string {
	var b strings.Builder
	for _, m := range members {
		b.WriteString(m.Node)
		for _, n := range []int{int(nodes[m.Node]), m.Weight} {
			b.WriteByte('/')
			b.WriteString(strconv.Itoa(n))
		}
		if m.Draining {
			b.WriteByte('d')
		}
		b.WriteByte(' ')
	}
	return b.String()
}

// pack writes a table as the program has it.
func pack(t *table.Table, nodes map[string]uint16) []decide.Slot {
	index := make([]uint16, len(t.Members))
	for i, m := range t.Members {
		index[i] = nodes[m.Node]
	}
	slots := make([]decide.Slot, len(t.Slots))
	for i, ranks := range t.Slots {
		slots[i] = decide.NoSlot
		for j, m := range ranks {
			if m != table.None {
				slots[i] = slots[i].With(j, index[m], t.Members[m].Draining)
			}
		}
	}
	return slots
}

// check refuses a table that cannot be right, as it would be written.
func check(members table.Members, slots []decide.Slot) error {
	return table.Check(members, func(i int) int {
		if n := slots[i].First(); n != decide.Nobody {
			return int(n)
		}
		return -1
	}, len(slots))
}

// leave takes a Service out of its group, whose table goes with the last one.
func (s *services) leave(name string, r *record) {
	if r.group == nil {
		return
	}
	delete(r.group.services, name)
	s.dirty[r.group] = true
	if len(r.group.services) == 0 {
		s.locations.give(r.group.at)
		delete(s.groups, r.group.key)
		delete(s.dirty, r.group)
	}
}

// enter compares what the kernel has of a Service with what it should have.
func (s *services) enter(name string, r *record, c *changes) {
	keys, ranges := r.entries()
	for k, v := range keys {
		if have, ok := r.keys[k]; !ok || have != v {
			c.put[k] = v
			delete(c.del, k)
		}
		s.owners[k] = name
	}
	for k := range r.keys {
		if _, ok := keys[k]; !ok {
			s.drop(k, c)
		}
	}
	for k := range ranges {
		if !r.ranges[k] {
			c.ranges = append(c.ranges, k)
		}
	}
	for k := range r.ranges {
		if !ranges[k] {
			c.delRanges = append(c.delRanges, k)
		}
	}
	r.keys, r.ranges = keys, ranges
}

// drop removes a frontend, unless it was just written.
func (s *services) drop(k program.ServiceKey, c *changes) {
	if _, ok := c.put[k]; !ok {
		c.del[k] = true
		delete(s.owners, k)
	}
}

// entries are what the kernel should have of a Service. Without endpoints it is left to kube-proxy.
func (r *record) entries() (map[program.ServiceKey]program.Service, map[program.RangeKey]bool) {
	keys, ranges := map[program.ServiceKey]program.Service{}, map[program.RangeKey]bool{}
	if r.group == nil {
		return keys, ranges
	}
	at := r.group.at
	entry := program.Service{ID: r.id, Flags: r.flags(), Page: at.page, Start: at.start, Slots: table.Slots}
	for _, f := range r.desired.Frontends {
		keys[keyOf(f)] = entry
	}
	for _, p := range r.desired.SourceRanges {
		ranges[rangeOf(p, r.id)] = true
	}
	return keys, ranges
}

func (r *record) flags() uint32 {
	var flags uint32
	for flag, set := range map[uint32]bool{
		program.TCPChance: r.desired.TCPChance, program.UDPChance: r.desired.UDPChance, program.Local: r.local,
		program.Affinity: r.desired.Affinity, program.Ranges: len(r.desired.SourceRanges) > 0,
	} {
		if set {
			flags |= flag
		}
	}
	return flags
}

func rangeOf(p netip.Prefix, service uint32) program.RangeKey {
	p = p.Masked()
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return program.RangeKey{PrefixLen: uint32(32 + bits), Service: service, Address: program.AddressOf(p.Addr())}
}

// remove forgets a Service.
func (s *services) remove(name string, c *changes) {
	r := s.records[name]
	s.leave(name, r)
	for k := range r.keys {
		s.drop(k, c)
	}
	for k := range r.ranges {
		c.delRanges = append(c.delRanges, k)
	}
	c.forget = append(c.forget, r.id)
	delete(s.ids, r.id)
	s.names.drop(r.id)
	delete(s.records, name)
}

// forget lets slots no longer count as moved whose time is over. While connections still need their
// second chance, their Service's are kept.
func (s *services) forget(now time.Time, asked func() map[uint32]uint64) {
	var counts map[uint32]uint64
	for _, r := range s.records {
		at := r.history.Again()
		if r.group == nil || at.IsZero() || now.Before(at) {
			continue
		}
		if counts == nil {
			if counts = asked(); counts == nil { // not known now
				return
			}
		}
		if n := counts[r.id]; n != r.asked {
			r.asked, r.history = n, r.history.Keep(now)
		} else {
			r.history = r.history.Forget(now)
		}
		s.dirty[r.group] = true
	}
}

// mark writes new tables, and those whose slots moved, or count as moved no longer.
func (s *services) mark(nodes map[string]uint16, c *changes) {
	for g := range s.dirty {
		if g.sum == 0 || sumOf(s.slotsOf(g, nodes)) != g.sum {
			c.tables = append(c.tables, s.tableWrite(g, nodes))
		} else {
			g.from = nil
		}
	}
	clear(s.dirty)
}

func (s *services) tableWrite(g *group, nodes map[string]uint16) tableWrite {
	return tableWrite{g.at, func() []decide.Slot {
		slots := s.slotsOf(g, nodes)
		g.sum, g.from = sumOf(slots), nil
		return slots
	}}
}

// slotsOf are a group's slots as the kernel should have them. A slot moved if it did for any
// Service.
func (s *services) slotsOf(g *group, nodes map[string]uint16) []decide.Slot {
	slots := pack(s.tableOf(g), nodes)
	bits := make([]uint64, (len(slots)+63)/64)
	for _, r := range g.services {
		r.history.AddTo(bits)
	}
	for i, slot := range slots {
		slots[i] = slot.WithMoved(bits[i/64]>>(i%64)&1 != 0)
	}
	s.remember(g, slots, nodes)
	return slots
}

// remember keeps in slots that moved who was first there before.
func (s *services) remember(g *group, slots []decide.Slot, nodes map[string]uint16) {
	if s.read == nil {
		return
	}
	var before [][]decide.Slot
	if g.sum != 0 {
		before = append(before, s.read(g.at))
	}
	for _, at := range g.from {
		before = append(before, s.read(at))
	}
	before = slices.DeleteFunc(before, func(b []decide.Slot) bool { return len(b) != len(slots) })
	if len(before) == 0 {
		return
	}
	drains := map[uint16]bool{}
	for _, m := range g.members {
		drains[nodes[m.Node]] = m.Draining
	}
	olds, order := make([]decide.Slot, len(before)), ordersOf(s.builder, g.members, nodes)
	for i, slot := range slots {
		if !slot.Moved() {
			continue
		}
		for j, b := range before {
			olds[j] = b[i]
		}
		slots[i] = inOrder(keep(slot, olds, drains), order(i))
	}
}

// sumOf is a checksum of slots, never 0.
func sumOf(slots []decide.Slot) uint64 {
	sum := uint64(0xcbf29ce484222325)
	for _, slot := range slots {
		sum = (sum ^ uint64(slot)) * 0x100000001b3
		sum ^= sum >> 32
	}
	return sum | 1
}

// repair returns what is to be written where the kernel has something else than was written.
func (s *services) repair(have map[program.ServiceKey]program.Service, ranges map[program.RangeKey]bool,
	read func(location) []decide.Slot, nodes map[string]uint16,
) changes {
	c := newChanges()
	for _, g := range s.groups {
		if sumOf(read(g.at)) != g.sum {
			c.tables = append(c.tables, s.tableWrite(g, nodes))
		}
	}
	wanted := map[program.RangeKey]bool{}
	for _, r := range s.records {
		for k, v := range r.keys {
			if got, ok := have[k]; !ok || got != v {
				c.put[k] = v
			}
		}
		for k := range r.ranges {
			wanted[k] = true
			if !ranges[k] {
				c.ranges = append(c.ranges, k)
			}
		}
	}
	for k := range have {
		if s.owners[k] == "" {
			c.del[k] = true
		}
	}
	for k := range ranges {
		if !wanted[k] {
			c.delRanges = append(c.delRanges, k)
		}
	}
	clear(s.fresh)
	return c
}
