package steering

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/dataplane/steering/program"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
)

var start = time.Unix(1e9, 0)

// model is what changes make of the kernel's maps.
type model struct {
	builder  *table.Builder
	pages    map[uint32]map[uint32]decide.Slot
	services map[program.ServiceKey]program.Service
	ranges   map[program.RangeKey]bool
}

func newModel() *model {
	return &model{
		table.NewBuilder(), map[uint32]map[uint32]decide.Slot{},
		map[program.ServiceKey]program.Service{},
		map[program.RangeKey]bool{},
	}
}

// apply does what kernel.apply does. A table that Services use must go on deciding as it did.
func (m *model) apply(c changes) error {
	for _, p := range c.newPages {
		if m.pages[p] != nil {
			return fmt.Errorf("page %d is there already", p)
		}
		m.pages[p] = map[uint32]decide.Slot{}
	}
	for _, w := range c.tables {
		if m.pages[w.at.page] == nil {
			return fmt.Errorf("there is no page %d", w.at.page)
		}
		for i, s := range w.slots() {
			at := w.at.start + uint32(i)
			if m.used(w.at) && !decidesAlike(m.pages[w.at.page][at], s) {
				return fmt.Errorf("slot %d of %+v changes while packets look there", i, w.at)
			}
			m.pages[w.at.page][at] = s
		}
	}
	for _, r := range c.ranges {
		m.ranges[r] = true
	}
	maps.Copy(m.services, c.put)
	for k := range c.del {
		delete(m.services, k)
	}
	for _, r := range c.delRanges {
		delete(m.ranges, r)
	}
	for _, p := range c.delPages {
		delete(m.pages, p)
	}
	return nil
}

// decidesAlike reports whether packets find in a slot whom they found before. Its marks may change,
// and if all ranks are taken, who is remembered in the last ones: another Service that joins the
// table brings who was first in its own, and who was is forgotten one day.
func decidesAlike(was, is decide.Slot) bool {
	stay := decide.Ranks
	if last, _ := is.At(decide.Ranks - 1); last != decide.Nobody && (is.Moved() || was.Moved()) {
		stay = 2
	}
	for i := range stay {
		node, drains := was.At(i)
		if n, d := is.At(i); n != node || d != drains {
			return false
		}
	}
	return was.First() == is.First()
}

func (m *model) used(at location) bool {
	for _, s := range m.services {
		if s.Page == at.page && s.Start == at.start {
			return true
		}
	}
	return false
}

func (m *model) read(at location) []decide.Slot {
	var slots []decide.Slot
	for i := range uint32(table.Slots) {
		slots = append(slots, m.pages[at.page][at.start+i])
	}
	return slots
}

// verify compares the maps with what is desired. Nodes that left lately may be in tables, too, and
// drain there.
func (m *model) verify(d Desired, index map[string]uint16, s *services) error {
	entries, ids := 0, map[uint32]string{}
	for name, svc := range d.Services {
		members := reachable(svc.Members, index)
		if len(members) == 0 {
			continue
		}
		local := isLocal(members, d.Self)
		for node, l := range s.records[name].left {
			members = append(members, table.Member{Node: node, Weight: l.weight, Draining: true})
		}
		if members = table.Normalize(members); len(s.records[name].left) > 0 && len(members) > decide.Ranks {
			return fmt.Errorf("%s: %v are ranked, with nodes that left", name, members)
		}
		want := pack(m.builder.Build(members), index)
		for _, f := range svc.Frontends {
			got, ok := m.services[keyOf(f)]
			if !ok {
				return fmt.Errorf("%s of %s is missing", f.Address, name)
			}
			if owner := ids[got.ID]; owner != "" && owner != name {
				return fmt.Errorf("%s and %s have one id", owner, name)
			}
			ids[got.ID] = name
			entries++
			slots := m.read(location{got.Page, got.Start})
			for i, slot := range slots {
				if len(members) > decide.Ranks && slot.Moved() {
					continue // it may rank others: TestServices_remembers
				}
				if !slices.Equal(ranks(slot), ranks(want[i])) && !slot.Moved() || slot.First() != want[i].First() {
					return fmt.Errorf("%s has another table than its members make", name)
				}
			}
			if got := got.Flags&program.Local != 0; got != local {
				return fmt.Errorf("%s: local %t", name, got)
			}
			if affinity := got.Flags&program.Affinity != 0; affinity != svc.Affinity {
				return fmt.Errorf("%s: affinity %t", name, affinity)
			}
		}
	}
	if entries != len(m.services) {
		return fmt.Errorf("%d frontends, want %d", len(m.services), entries)
	}
	return nil
}

// unasked: nobody needs a second chance.
func unasked() map[uint32]uint64 { return map[uint32]uint64{} }

func frontend(i int) Frontend {
	return Frontend{netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 443), decide.TCP}
}

func index(nodes int) map[string]uint16 {
	all := map[string]uint16{}
	for i := range nodes {
		all[fmt.Sprint("n", i+1)] = uint16(i + 1)
	}
	return all
}

func someDesired(t *rapid.T) Desired {
	d := Desired{Self: "n1", Services: map[string]Service{}}
	for i := range 4 {
		if rapid.IntRange(0, 4).Draw(t, "absent") == 0 {
			continue
		}
		s := Service{
			Frontends: []Frontend{frontend(i)}, Affinity: rapid.Bool().Draw(t, "affinity"),
			TCPChance: rapid.Bool().Draw(t, "chance"),
		}
		if rapid.Bool().Draw(t, "second frontend") {
			s.Frontends = append(s.Frontends, frontend(i+100))
		}
		if rapid.Bool().Draw(t, "ranges") {
			s.SourceRanges = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
		}
		for range rapid.IntRange(0, 8).Draw(t, "members") {
			s.Members = append(s.Members, table.Member{
				Node: fmt.Sprint(
					"n",
					rapid.IntRange(1, 9).Draw(t, "node"),
				), Weight: rapid.IntRange(1, 2).Draw(t, "weight"),
				Draining: rapid.IntRange(0, 3).Draw(t, "draining") == 0,
			})
		}
		d.Services[fmt.Sprint("s", i)] = s
	}
	return d
}

// syncAll is sync, with what is wrong as one error.
func (s *services) syncAll(
	d Desired, nodes map[string]uint16, again bool, now time.Time, asked func() map[uint32]uint64,
) (changes, error) {
	c, failed := s.sync(d, nodes, again, now, asked)
	return c, failed.err()
}

// After each change the kernel's maps are what is desired, and on the way no table changes that
// packets look at. Restarts included.
func TestServices_sync(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, now := newModel(), start
		s := newServices(nil, nil, nil, m.read)
		nodes := index(8) // n9 is not known
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			d := someDesired(t)
			if rapid.IntRange(0, 4).Draw(t, "restart") == 0 {
				s = newServices(maps.Clone(m.services), maps.Clone(m.ranges), slices.Sorted(maps.Keys(m.pages)), m.read)
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 8).Draw(t, "hours")) * time.Hour)
			bring := func(c changes, failed failures) {
				if err := errors.Join(failed.err(), m.apply(c), m.verify(d, nodes, s)); err != nil {
					t.Fatal(err)
				}
			}
			if s.begun && rapid.Bool().Draw(t, "update") {
				names := slices.Concat(slices.Collect(maps.Keys(d.Services)), slices.Collect(maps.Keys(s.records)))
				bring(s.update(d, nodes, names, now))
			}
			bring(s.sync(d, nodes, false, now, unasked)) // also what is due by time, which update leaves
			if c, _ := s.sync(d, nodes, false, now, unasked); !c.empty() {
				t.Fatalf("a second time there is something to write: %+v", c)
			}
			if c := s.repair(m.services, m.ranges, m.read, nodes); !c.empty() {
				t.Fatalf("there is something to repair: %+v", c)
			}
		}
	})
}

// A slot remembers who was first in it, however many nodes join; also a process that was restarted.
// Who is first, and who is next, does not depend on that.
func TestServices_remembers(t *testing.T) {
	for name, steps := range map[string][]int{
		"at once": {2, 10}, "one by one": {2, 3, 4, 5, 6, 7, 8, 9, 10}, "and some leave": {2, 6, 4, 9, 7, 12},
	} {
		m, nodes := newModel(), index(12)
		s := newServices(nil, nil, nil, m.read)
		firsts := make([]map[uint16]bool, table.Slots)
		lost, moved := 0, 0
		for round, n := range steps {
			if round == 1 {
				s = newServices(maps.Clone(m.services), nil, slices.Sorted(maps.Keys(m.pages)), m.read)
			}
			d := Desired{Services: map[string]Service{"web": {Frontends: []Frontend{frontend(1)}}}}
			web := d.Services["web"]
			for i := range n {
				web.Members = append(web.Members, table.Member{Node: fmt.Sprint("n", i+1), Weight: 1})
			}
			d.Services["web"] = web
			c, err := s.syncAll(d, nodes, false, start, unasked)
			if err := errors.Join(err, m.apply(c), m.verify(d, nodes, s)); err != nil {
				t.Fatal(err)
			}
			base := pack(m.builder.Build(web.Members), nodes)
			entry := m.services[keyOf(frontend(1))]
			lost, moved = 0, 0
			for i, slot := range m.read(location{entry.Page, entry.Start}) {
				for rank := range 2 {
					got, _ := slot.At(rank)
					if want, _ := base[i].At(rank); got != want {
						t.Fatalf("%s, %d nodes, slot %d: node %d has rank %d, want %d", name, n, i, got, rank, want)
					}
				}
				if firsts[i] == nil {
					firsts[i] = map[uint16]bool{}
				}
				firsts[i][slot.First()] = true
				for first := range firsts[i] {
					moved++
					if int(first) <= n && !slices.ContainsFunc(ranks(slot), func(r uint16) bool { return r == first }) {
						lost++
					}
				}
			}
		}
		t.Logf("%s: of %d nodes that were first in a slot %d are not asked", name, moved, lost)
		if name == "at once" && lost > 0 || lost*25 > moved {
			t.Errorf("%s: of %d nodes that were first in a slot %d are not asked", name, moved, lost)
		}
	}
}

// A Service that joins the table of another one brings whom its packets may be with. Packets of the
// other one are decided as before.
func TestServices_joins(t *testing.T) {
	m, nodes := newModel(), index(6)
	s := newServices(nil, nil, nil, m.read)
	on := func(numbers ...int) (members []table.Member) {
		for _, n := range numbers {
			members = append(members, table.Member{Node: fmt.Sprint("n", n), Weight: 1})
		}
		return members
	}
	bring := func(joining []table.Member) {
		t.Helper()
		d := Desired{Services: map[string]Service{
			"there": {Frontends: []Frontend{frontend(1)}, Members: on(1, 2, 3, 4, 5, 6)},
			"joins": {Frontends: []Frontend{frontend(2)}, Members: joining},
		}}
		c, err := s.syncAll(d, nodes, false, start, unasked)
		if err := errors.Join(err, m.apply(c), m.verify(d, nodes, s)); err != nil {
			t.Fatal(err)
		}
	}
	bring(on(4))
	at := m.services[keyOf(frontend(1))]
	bring(on(1, 2, 3, 4, 5, 6))
	if now := m.services[keyOf(frontend(2))]; now.Page != at.Page || now.Start != at.Start {
		t.Fatal("Services on the same nodes have two tables")
	}
	for i, slot := range m.read(location{at.Page, at.Start}) {
		if !slices.Contains(ranks(slot), nodes["n4"]) {
			t.Errorf("slot %d: the node that all connections are with is not asked", i)
		}
	}
}

// ranks are the nodes that a slot ranks.
func ranks(s decide.Slot) (nodes []uint16) {
	for i := range decide.Ranks {
		if n, _ := s.At(i); n != decide.Nobody {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// Whatever is changed in the kernel's maps is found, and written again.
func TestServices_repair(t *testing.T) {
	m, s, nodes := newModel(), newServices(nil, nil, nil, nil), index(4)
	d := Desired{Self: "n1", Services: map[string]Service{"web": {
		Frontends: []Frontend{frontend(1)}, Members: []table.Member{{Node: "n1", Weight: 1}, {Node: "n2", Weight: 1}},
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")},
	}}}
	c, err := s.syncAll(d, nodes, false, start, unasked)
	if err := errors.Join(err, m.apply(c)); err != nil {
		t.Fatal(err)
	}
	k := keyOf(frontend(1))
	entry := m.services[k]
	for name, harm := range map[string]func(){
		"a Service is gone":     func() { delete(m.services, k) },
		"a Service is another":  func() { entry := m.services[k]; entry.Flags = 0; entry.Slots = 1; m.services[k] = entry },
		"a Service of nobody's": func() { m.services[keyOf(frontend(9))] = program.Service{} },
		"a range is gone":       func() { clear(m.ranges) },
		"a range of nobody's":   func() { m.ranges[program.RangeKey{PrefixLen: 32}] = true },
		"a slot is another":     func() { m.pages[entry.Page][entry.Start+5] = decide.NoSlot },
		"a slot is not marked":  func() { m.pages[entry.Page][entry.Start+5] ^= 0x4000 },
	} {
		harm()
		c := s.repair(m.services, m.ranges, m.read, nodes)
		if c.empty() {
			t.Errorf("%s, and it is not seen", name)
		}
		delete(m.services, k) // so that the model does not mind that the table changes
		if err := m.apply(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		m.services[k] = entry
		if c := s.repair(m.services, m.ranges, m.read, nodes); !c.empty() {
			t.Errorf("%s, and it is not repaired", name)
		}
	}
}

// Services keep the number that their packets are counted by, also through a restart.
func TestServices_ids(t *testing.T) {
	m, nodes := newModel(), index(2)
	web := Service{Frontends: []Frontend{frontend(1)}, Members: []table.Member{{Node: "n1", Weight: 1}}}
	dns := Service{Frontends: []Frontend{frontend(2)}, Members: web.Members}
	s := newServices(nil, nil, nil, nil)
	for _, services := range []map[string]Service{{"web": web}, {"web": web, "dns": dns}, {"dns": dns}} {
		c, err := s.syncAll(Desired{Services: services}, nodes, false, start, unasked)
		if err := errors.Join(err, m.apply(c)); err != nil {
			t.Fatal(err)
		}
	}
	was := m.services[keyOf(frontend(2))].ID
	s = newServices(m.services, nil, slices.Sorted(maps.Keys(m.pages)), m.read)
	c, err := s.syncAll(
		Desired{Services: map[string]Service{"a-new-one": web, "dns": dns}},
		nodes,
		false,
		start,
		unasked,
	)
	if err := errors.Join(err, m.apply(c)); err != nil {
		t.Fatal(err)
	}
	if id := m.services[keyOf(frontend(2))].ID; id != was || m.services[keyOf(frontend(1))].ID == was {
		t.Errorf(
			"after a restart its id is %d, was %d; the other one's is %d",
			id,
			was,
			m.services[keyOf(frontend(1))].ID,
		)
	}
}

// Two Services cannot have one frontend; the first keeps it until it gives it up.
func TestServices_conflict(t *testing.T) {
	m, s, nodes := newModel(), newServices(nil, nil, nil, nil), index(2)
	one := Service{Frontends: []Frontend{frontend(1)}, Members: []table.Member{{Node: "n1", Weight: 1}}}
	two := Service{Frontends: []Frontend{frontend(2)}, Members: []table.Member{{Node: "n2", Weight: 1}}}
	both := Service{Frontends: []Frontend{frontend(1), frontend(2)}, Members: one.Members}
	sync := func(services map[string]Service) error {
		d := Desired{Self: "n1", Services: services}
		c, err := s.syncAll(d, nodes, false, start, unasked)
		if err := m.apply(c); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			err = m.verify(d, nodes, s)
		}
		return err
	}
	if err := sync(map[string]Service{"one": one, "two": two}); err != nil {
		t.Fatal(err)
	}
	want := "Service one: 198.51.100.2:443 is steered for Service two already"
	if err := sync(map[string]Service{"one": both, "two": two}); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	two.Frontends = []Frontend{frontend(3)}
	if err := sync(map[string]Service{"one": both, "two": two}); err != nil {
		t.Error("once it gave it up:", err)
	}
}

// Slots count as moved after a restart, and where nodes joined.
func TestServices_moved(t *testing.T) {
	m, s, nodes := newModel(), newServices(nil, nil, nil, nil), index(3)
	web := Service{Frontends: []Frontend{frontend(1)}, Members: []table.Member{{Node: "n1", Weight: 1}}}
	late := Service{Frontends: []Frontend{frontend(2)}, Members: web.Members}
	marked := func(f Frontend) int {
		at, n := m.services[keyOf(f)], 0
		for _, slot := range m.read(location{at.Page, at.Start}) {
			if slot.Moved() {
				n++
			}
		}
		return n
	}
	sync := func(services map[string]Service, after time.Duration) {
		c, err := s.syncAll(Desired{Services: services}, nodes, false, start.Add(after), unasked)
		if err := errors.Join(err, m.apply(c)); err != nil {
			t.Fatal(err)
		}
	}
	sync(map[string]Service{"web": web}, 0)
	if n := marked(frontend(1)); n != table.Slots {
		t.Errorf("%d slots moved of a Service that nothing is known about, want all", n)
	}
	sync(map[string]Service{"web": web}, 2*table.MovedFor)
	if n := marked(frontend(1)); n != 0 {
		t.Errorf("%d slots moved hours later, want none", n)
	}
	late.Members = []table.Member{{Node: "n2", Weight: 1}}
	sync(map[string]Service{"web": web, "late": late}, 2*table.MovedFor)
	if n := marked(frontend(2)); n != table.Slots {
		t.Errorf("%d slots moved of a new Service, want all: it may have connections from before it was steered", n)
	}
	web.Members = []table.Member{{Node: "n1", Weight: 1}, {Node: "n2", Weight: 1}}
	late.Members = web.Members
	sync(map[string]Service{"web": web, "late": late}, 2*table.MovedFor+time.Hour)
	// One lost to n2 what the other one lost to n1, and they have one table.
	if n := marked(frontend(1)); n != table.Slots || len(s.groups) != 1 {
		t.Errorf("%d slots moved in %d tables, want all in one", n, len(s.groups))
	}
}

// Of a Service whose endpoints are all gone for a moment nobody knows where its connections are.
func TestServices_goneAndBack(t *testing.T) {
	m, s, nodes := newModel(), newServices(nil, nil, nil, nil), index(2)
	web := Service{Frontends: []Frontend{frontend(1)}, Members: []table.Member{
		{Node: "n1", Weight: 1}, {Node: "n2", Weight: 1},
	}}
	sync := func(members []table.Member, after time.Duration) (moved int) {
		desired := web
		desired.Members = members
		c, err := s.syncAll(Desired{Services: map[string]Service{"web": desired}}, nodes, false, start.Add(after), unasked)
		if err := errors.Join(err, m.apply(c)); err != nil {
			t.Fatal(err)
		}
		at, steered := m.services[keyOf(frontend(1))]
		if !steered {
			return 0
		}
		for _, slot := range m.read(location{at.Page, at.Start}) {
			if slot.Moved() {
				moved++
			}
		}
		return moved
	}
	sync(web.Members, 0)
	if n := sync(web.Members, 2*table.MovedFor); n != 0 {
		t.Errorf("%d slots moved of a Service that did not change", n)
	}
	sync(nil, 2*table.MovedFor+time.Second)
	if n := sync(web.Members[:1], 2*table.MovedFor+time.Minute); n != table.Slots {
		t.Errorf("%d slots moved of a Service that was gone, want all", n)
	}
}

// Slots count as moved for as long as connections need their second chance.
func TestServices_movedAndUsed(t *testing.T) {
	m, s, nodes := newModel(), newServices(nil, nil, nil, nil), index(2)
	d := Desired{Services: map[string]Service{"web": {
		Frontends: []Frontend{frontend(1)}, Members: []table.Member{{Node: "n1", Weight: 1}, {Node: "n2", Weight: 1}},
	}}}
	used := uint64(0)
	asked := func() map[uint32]uint64 { return map[uint32]uint64{m.services[keyOf(frontend(1))].ID: used} }
	moved := func(after time.Duration) bool {
		c, err := s.syncAll(d, nodes, false, start.Add(after), asked)
		if err := errors.Join(err, m.apply(c)); err != nil {
			t.Fatal(err)
		}
		at := m.services[keyOf(frontend(1))]
		return m.read(location{at.Page, at.Start})[0].Moved()
	}
	if !moved(0) {
		t.Error("a Service that nothing is known about has slots that did not move")
	}
	periods := time.Duration(0)
	for range 5 {
		periods++
		if used++; !moved(periods * table.MovedFor) {
			t.Errorf("forgotten after %d periods, though second chances are needed", periods)
		}
	}
	if periods++; !moved(periods * table.MovedFor) {
		t.Error("forgotten in the period after")
	}
	if periods++; moved(periods * table.MovedFor) {
		t.Error("not forgotten though nobody needs it")
	}
}

func TestCheck_refuses(t *testing.T) {
	members := table.Normalize([]table.Member{{Node: "n1", Weight: 1}, {Node: "n2", Weight: 1}})
	one := slices.Repeat([]decide.Slot{decide.NoSlot.With(0, 1, false)}, table.Slots)
	if err := check(members, one); !errors.Is(err, table.ErrOneSided) {
		t.Errorf("everything to one of two nodes: %v", err)
	}
	one[7] = decide.NoSlot.With(0, 1, true)
	if err := check(members, one); !errors.Is(err, table.ErrNobody) {
		t.Errorf("a slot of nobody's: %v", err)
	}
}

func TestDesired_check(t *testing.T) {
	good := Desired{
		Seed: decide.Seed{1}, Self: "n1", Nodes: map[string]Node{"n1": {IPv4: netip.MustParseAddr("10.0.0.1")}},
	}
	if err := good.check(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Desired){
		"no seed":             func(d *Desired) { d.Seed = decide.Seed{} },
		"does not know":       func(d *Desired) { d.Self = "n2" },
		"has no address":      func(d *Desired) { d.Nodes = map[string]Node{"n1": {}} },
		"takes up to 4095 no": func(d *Desired) { d.Nodes = many(4096) },
	} {
		d := good
		change(&d)
		if err := d.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func many(n int) map[string]Node {
	all := map[string]Node{}
	for i := range n {
		all[fmt.Sprint("n", i)] = Node{IPv4: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}
	}
	return all
}

// 10 000 Services on 100 nodes, each with endpoints on three: the endpoints of one change.
func BenchmarkServices_oneOf10000(b *testing.B) {
	nodes, s := index(100), newServices(nil, nil, nil, nil)
	d := Desired{Self: "n1", Services: map[string]Service{}}
	for i := range 10_000 {
		a := netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})
		d.Services[fmt.Sprint("s", i)] = Service{
			Frontends: []Frontend{{netip.AddrPortFrom(a, 80), decide.TCP}, {netip.AddrPortFrom(a, 443), decide.TCP}},
			Members: []table.Member{
				{Node: fmt.Sprint("n", i%100+1), Weight: 1}, {Node: fmt.Sprint("n", i/100+1), Weight: 2},
				{Node: fmt.Sprint("n", i*7%100+1), Weight: 3},
			},
		}
	}
	if _, err := s.syncAll(d, nodes, false, start, unasked); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		web := d.Services["s77"]
		web.Members = []table.Member{{Node: "n1", Weight: 1}, {Node: "n2", Weight: 1 + i%2}}
		d.Services["s77"] = web
		if c, err := s.syncAll(d, nodes, false, start, unasked); err != nil || len(c.put) != 2 {
			b.Fatal(err, len(c.put))
		}
	}
}

// A node whose last endpoint is gone stays in the table for a while, where there is room: nodes
// that have not heard of it ask each other in the same order. This node stays longer in its own.
func TestServices_leavers(t *testing.T) {
	for _, c := range []struct {
		name         string
		before, then []string
		after        time.Duration
		want         []string
	}{
		{"one of three", []string{"n1", "n2", "n3"}, []string{"n2", "n3"}, time.Second, []string{"n1", "n2", "n3"}},
		{"long ago", []string{"n1", "n2", "n3"}, []string{"n1", "n3"}, time.Minute, []string{"n1", "n3"}},
		{"this node, long ago", []string{"n1", "n2", "n3"}, []string{"n2"}, time.Minute, []string{"n1", "n2"}},
		{"this node, a day ago", []string{"n1", "n2", "n3"}, []string{"n2"}, 24 * time.Hour, []string{"n2"}},
		{"it is deleted", []string{"n2", "n3", "n9"}, []string{"n2"}, time.Second, []string{"n2", "n3"}},
		{"no room", []string{"n2", "n3", "n4"}, []string{"n2", "n5", "n6"}, time.Second, []string{"n2", "n5", "n6"}},
		{"the last one", []string{"n2"}, nil, time.Second, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, nodes := newModel(), index(9)
			s := newServices(nil, nil, nil, m.read)
			d := Desired{Self: "n1", Services: map[string]Service{}}
			bring := func(members []string, nodes map[string]uint16, again bool, now time.Time) {
				t.Helper()
				web := Service{Frontends: []Frontend{frontend(1)}}
				for _, n := range members {
					web.Members = append(web.Members, table.Member{Node: n, Weight: 1})
				}
				d.Services["web"] = web
				changes, err := s.syncAll(d, nodes, again, now, unasked)
				if err := errors.Join(err, m.apply(changes), m.verify(d, nodes, s)); err != nil {
					t.Fatal(err)
				}
			}
			bring(c.before, nodes, false, start)
			delete(nodes, "n9")
			bring(c.then, nodes, true, start)
			bring(c.then, nodes, false, start.Add(c.after))
			var got []string
			if g := s.records["web"].group; g != nil {
				for _, m := range g.members {
					got = append(got, m.Node)
					if m.Draining == slices.Contains(c.then, m.Node) {
						t.Errorf("%+v", m)
					}
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("the table has %v, want %v", got, c.want)
			}
		})
	}
}

// A Service that goes does not have all counters read: they go with the next Refresh, together.
func TestKernel_forgetsLater(t *testing.T) {
	k := &kernel{Objects: &program.Objects{}, gone: map[uint32]bool{}} // a map that is read is nil
	for id := range uint32(3) {
		c := newChanges()
		c.forget = []uint32{id, id + 1}
		if err := k.apply(c); err != nil {
			t.Fatal(err)
		}
	}
	if want := map[uint32]bool{0: true, 1: true, 2: true, 3: true}; !maps.Equal(k.gone, want) {
		t.Errorf("the counters of %v are to go, want %v", k.gone, want)
	}
}
