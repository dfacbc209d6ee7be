package steering

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/dataplane/steering/program"
)

// Count is how many packets of a Service were treated in one way.
type Count struct {
	Service string
	// Node is where they went; this one for those that did not leave it.
	Node   string
	Reason decide.Reason
	// Packets since the program's maps were made; they outlive the process.
	Packets uint64
}

// Stats returns what was counted, for Services and nodes that are known, in no order. It does not
// wait for a Sync that is under way.
func (d *Driver) Stats() ([]Count, error) {
	d.reading.RLock()
	counts, err := d.kernel.counters()
	d.reading.RUnlock()
	if err != nil {
		return nil, err
	}
	services, nodes := d.names.Load(), d.nodes.names()
	var all []Count
	for key, n := range counts {
		service, node := services.of(key.Service), nodes[key.Node]
		if service != "" && node != "" {
			all = append(all, Count{service, node, decide.Reason(key.Reason), n})
		}
	}
	return all, nil
}

// serviceNames are the names of Services by the number that their packets are counted by. They have
// a lock of their own, so that who reads counters does not wait while tables are written.
type serviceNames struct {
	mu   sync.Mutex
	byID map[uint32]string // guarded by mu
}

func newServiceNames() *serviceNames { return &serviceNames{byID: map[uint32]string{}} }

func (s *serviceNames) put(id uint32, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[id] = name
}

func (s *serviceNames) drop(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, id)
}

// of returns "" for a Service that is not known.
func (s *serviceNames) of(id uint32) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// Tables is how many tables the Services have. Those whose endpoints are on the same nodes share
// one.
func (d *Driver) Tables() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.services.groups)
}

// counters are packets, of all processors. They are read many at once: there may be hundreds of
// thousands.
func (k *kernel) counters() (map[program.StatsKey]uint64, error) {
	processors, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count the processors: %w", err)
	}
	counts := map[program.StatsKey]uint64{}
	keys, each := make([]program.StatsKey, batch), make([]uint64, batch*processors)
	var at ebpf.MapBatchCursor
	for {
		n, err := k.Stats.BatchLookup(&at, keys, each, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("read the counters of steering: %w", err)
		}
		for i := range n {
			sum := uint64(0)
			for _, of := range each[i*processors : (i+1)*processors] {
				sum += of
			}
			counts[keys[i]] = sum
		}
		if err != nil { // that was the last of them
			return counts, nil
		}
	}
}
