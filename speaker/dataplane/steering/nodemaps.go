package steering

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/dataplane/steering/program"
)

// nodeMaps are the nodes and the configuration in the kernel. They have a lock of their own: a
// death does not wait for tables.
type nodeMaps struct {
	kernel *kernel // only its maps of nodes, and the configuration

	mu        sync.Mutex // guards all below
	nodes     *nodes
	desired   Desired
	written   map[uint16]program.Node    // what the map nodes has
	byAddress map[program.Address]uint32 // what the map node_by_addr has
}

// read takes over what is in the kernel: all of it at first, and later what was written.
func (m *nodeMaps) read() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.readMaps(); err != nil {
		return err
	}
	if m.nodes == nil {
		m.nodes = newNodes(m.written)
	}
	return nil
}

func (m *nodeMaps) readMaps() error {
	written, err := m.kernel.foundNodes()
	if err != nil {
		return err
	}
	byAddress, err := all[program.Address, uint32](m.kernel.NodeByAddr)
	if err != nil {
		return err
	}
	m.written, m.byAddress = written, byAddress
	return nil
}

// sync writes the nodes that are desired, and leaves others there for now. It returns the indices
// of nodes, and whether another one is a node now than before.
func (m *nodeMaps) sync(desired Desired, now time.Time) (index map[string]uint16, changed bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, err := m.kernel.configuration()
	if err != nil {
		return nil, false, err
	}
	if seed := decide.Seed(before.Seed); seed != desired.Seed && seed != (decide.Seed{}) {
		return nil, false, ErrSeed
	}
	changed = m.nodes.sync(desired.Nodes, m.written, now)
	m.desired = desired
	m.nodes.forget(now, m.asked)
	return maps.Clone(m.nodes.index), changed, m.put()
}

// repair writes again what others changed.
func (m *nodeMaps) repair(now time.Time) (index map[string]uint16, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.readMaps(); err != nil {
		return nil, err
	}
	m.nodes.forget(now, m.asked)
	return maps.Clone(m.nodes.index), m.put()
}

// asked returns how many packets this node sent to others as their second chance; false: that is
// not known now.
func (m *nodeMaps) asked() (sum uint64, known bool) {
	byService := m.kernel.secondChances()
	for _, n := range byService {
		sum += n
	}
	return sum, byService != nil
}

func (m *nodeMaps) put() error {
	byIndex, byAddress := m.nodes.entries(m.desired)
	for i, n := range byIndex {
		if err := m.putNode(i, n); err != nil {
			return err
		}
	}
	for a, i := range byAddress {
		if have, ok := m.byAddress[a]; ok && have == i {
			continue
		}
		if err := m.kernel.NodeByAddr.Put(a, i); err != nil {
			return fmt.Errorf("write a node's address: %w", err)
		}
		m.byAddress[a] = i
	}
	return nil
}

func (m *nodeMaps) putNode(i uint16, n program.Node) error {
	if m.written[i] == n {
		return nil
	}
	if err := m.kernel.putNode(i, n); err != nil {
		return err
	}
	m.written[i] = n
	return nil
}

// removeOthers removes what is not desired.
func (m *nodeMaps) removeOthers() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	byIndex, byAddress := m.nodes.entries(m.desired)
	var errs []error
	gone := map[uint16]bool{}
	for i := range m.written {
		if _, ok := byIndex[i]; !ok {
			errs = append(errs, m.kernel.putNode(i, program.Node{}))
			delete(m.written, i)
			gone[i] = true
		}
	}
	if len(gone) > 0 { // another node gets the index one day
		errs = append(errs, m.kernel.forgetCounters(func(k program.StatsKey) bool { return gone[k.Node] }))
	}
	for a := range m.byAddress {
		if _, ok := byAddress[a]; !ok {
			errs = append(errs, ignoreMissing(m.kernel.NodeByAddr.Delete(a)))
			delete(m.byAddress, a)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove nodes: %w", err)
	}
	return nil
}

// suspect notes which nodes are thought dead, and which of them are so beyond doubt. Of this one it
// says that others may think so: the program takes it for alive all the same, and asks others about
// connections that it does not know.
func (m *nodeMaps) suspect(suspects, dead map[string]bool, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	news := false
	for node, i := range m.nodes.index {
		buried := m.nodes.bury(node, suspects[node] && dead[node])
		suspected := m.nodes.suspect(node, suspects[node], now)
		news = news || suspected
		if !buried && !suspected {
			continue
		}
		errs = append(errs, m.putNode(i, m.nodes.entry(node, m.desired.Nodes[node])))
	}
	if !news {
		return errors.Join(errs...)
	}
	c, err := m.kernel.configuration()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	c.Settled = monotonic() + uint64(settle)
	return errors.Join(append(errs, m.kernel.configure(c))...)
}

func (m *nodeMaps) suspected() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(m.nodes.suspected)), func(node string) bool {
		return node == m.desired.Self
	})
}

// configure writes the configuration. Unsettled: packets may go elsewhere from now on.
func (m *nodeMaps) configure(unsettled bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, err := m.kernel.configuration()
	if err != nil {
		return err
	}
	settled := before.Settled
	if unsettled {
		settled = monotonic() + uint64(settle)
	}
	return m.kernel.configure(configuration(m.desired, m.nodes.index[m.desired.Self], before.Deadline, settled))
}

// prolong prolongs the lease: the kernel has what is desired.
func (m *nodeMaps) prolong() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, err := m.kernel.configuration()
	if err != nil {
		return err
	}
	c.Deadline = monotonic() + uint64(lease)
	return m.kernel.configure(c)
}

// configuration is what the kernel should have. Times are those of its clock.
func configuration(d Desired, self uint16, deadline, settled uint64) program.Configuration {
	node := d.Nodes[d.Self]
	c := program.Configuration{Deadline: deadline, Settled: settled, Seed: d.Seed, Self: uint32(self)}
	if d.Enabled {
		c.Flags = program.On
	}
	if node.IPv4.IsValid() {
		c.Self4 = node.IPv4.As4()
	}
	if node.IPv6.IsValid() {
		c.Self6 = node.IPv6.As16()
	}
	return c
}

// names are those of nodes, by index.
func (m *nodeMaps) names() map[uint16]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := map[uint16]string{}
	for name, i := range m.nodes.index {
		names[i] = name
	}
	return names
}
