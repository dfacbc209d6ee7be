package steering

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
	"github.com/berth-lb/berth/speaker/dataplane/steering/program"
	"github.com/berth-lb/berth/speaker/dataplane/steering/table"
)

// layout is the version of what the maps hold. Maps of another version are not touched: a new set
// is made and filled beside them, then the interfaces change over, and the old set goes. What is in
// it follows from what is desired, but for counters, which begin at zero, and fragments on their
// way.
const layout = 1

// kernel is the program, its maps and their pins.
type kernel struct {
	pins string // the folder of this layout
	*program.Objects
	pages map[uint32]*mappedPage
	// chance: the program asks conntrack.
	chance bool
	// gone are ids of Services that are gone, and whose counters are there still.
	gone map[uint32]bool
}

// mappedPage is a page in the memory of this process.
type mappedPage struct {
	*ebpf.Map
	memory *ebpf.Memory
}

// open loads the program with the maps that are pinned below a folder of a bpffs, or pins new ones.
func open(folder string) (*kernel, error) {
	var fs unix.Statfs_t
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for pinned maps: %w", err)
	}
	if err := unix.Statfs(folder, &fs); err != nil {
		return nil, fmt.Errorf("find the file system of %s: %w", folder, err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		return nil, fmt.Errorf(
			"%s is not on a bpffs: mount one there (mount -t bpf bpffs %s), or a hostPath of the node's in /sys/fs/bpf",
			folder,
			folder,
		)
	}
	k := &kernel{
		pins: filepath.Join(folder, "v"+strconv.Itoa(layout)), pages: map[uint32]*mappedPage{}, gone: map[uint32]bool{},
	}
	if err := os.MkdirAll(k.pins, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for pinned maps: %w", err)
	}
	var err error
	if k.Objects, k.chance, err = load(k.pins); err != nil {
		return nil, err
	}
	k.openPages()
	return k, nil
}

// openPages opens the pages of a process before this one. What cannot be opened is not remembered.
func (k *kernel) openPages() {
	found, _ := filepath.Glob(k.pageFile("*")) // the pattern is right
	for _, file := range found {
		index, err := strconv.ParseUint(strings.TrimPrefix(file, k.pageFile("")), 10, 32)
		if err != nil {
			continue
		}
		m, err := ebpf.LoadPinnedMap(file, nil)
		if err != nil {
			continue
		}
		memory, err := m.Memory()
		if err != nil {
			_ = m.Close()
			continue
		}
		k.pages[uint32(index)] = &mappedPage{m, memory}
	}
}

// pageFile is where a page is pinned, so that the next process can read it.
func (k *kernel) pageFile(index string) string { return filepath.Join(k.pins, "page-"+index) }

// load loads the program: with the second chance if the kernel can.
func load(pins string) (o *program.Objects, chance bool, err error) {
	if tracksConnections() {
		if o, err = program.Load(pins, true); err == nil {
			return o, true, nil
		}
	}
	if o, err = program.Load(pins, false); err != nil {
		return nil, false, withRemedy(err)
	}
	return o, false, nil
}

// withRemedy says what may be missing.
func withRemedy(err error) error {
	var rejected *ebpf.VerifierError
	switch {
	case errors.As(err, &rejected):
		return fmt.Errorf("the kernel refuses the steering program (is CAP_PERFMON missing?): %w", err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: steering wants the capabilities BPF, NET_ADMIN and PERFMON", err)
	}
	return err
}

func (k *kernel) close() error {
	errs := []error{k.Objects.Close()}
	for _, p := range k.pages {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// reload loads the program again, on the same maps.
func (k *kernel) reload() error {
	fresh, chance, err := load(k.pins)
	if err != nil {
		return err
	}
	k.Steer, fresh.Steer, k.chance = fresh.Steer, k.Steer, chance
	return fresh.Close()
}

func (k *kernel) configuration() (c program.Configuration, err error) {
	if err := k.Config.Lookup(uint32(0), &c); err != nil {
		return c, fmt.Errorf("read the configuration of steering: %w", err)
	}
	return c, nil
}

func (k *kernel) configure(c program.Configuration) error {
	if err := k.Config.Put(uint32(0), c); err != nil {
		return fmt.Errorf("write the configuration of steering: %w", err)
	}
	return nil
}

// all reads a map.
func all[K comparable, V any](m *ebpf.Map) (map[K]V, error) {
	var key K
	var value V
	entries := map[K]V{}
	it := m.Iterate()
	for it.Next(&key, &value) {
		entries[key] = value
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("read the map %s: %w", m, err)
	}
	return entries, nil
}

// batch is how many entries are read at once.
const batch = 1024

// foundServices reads the map that may be large.
func (k *kernel) foundServices() (map[program.ServiceKey]program.Service, error) {
	found := map[program.ServiceKey]program.Service{}
	keys, values := make([]program.ServiceKey, batch), make([]program.Service, batch)
	var at ebpf.MapBatchCursor
	for {
		n, err := k.Services.BatchLookup(&at, keys, values, nil)
		for i := range n {
			found[keys[i]] = values[i]
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) { // that was the last of them
			return found, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the Services that are steered: %w", err)
		}
	}
}

// foundNodes are the nodes in the map, by index.
func (k *kernel) foundNodes() (map[uint16]program.Node, error) {
	entries, err := all[uint32, program.Node](k.Nodes)
	if err != nil {
		return nil, err
	}
	nodes := map[uint16]program.Node{}
	for i, n := range entries {
		if n != (program.Node{}) {
			nodes[uint16(i)] = n
		}
	}
	return nodes, nil
}

func (k *kernel) foundPages() ([]uint32, error) {
	entries, err := all[uint32, uint32](k.Tables)
	if err != nil {
		return nil, err
	}
	var pages []uint32
	for i := range entries {
		pages = append(pages, i)
	}
	slices.Sort(pages)
	return pages, nil
}

func (k *kernel) foundRanges() (map[program.RangeKey]bool, error) {
	entries, err := all[program.RangeKey, uint32](k.SourceRanges)
	ranges := map[program.RangeKey]bool{}
	for r := range entries {
		ranges[r] = true
	}
	return ranges, err
}

// putNode writes one node.
func (k *kernel) putNode(index uint16, n program.Node) error {
	if err := k.Nodes.Put(uint32(index), n); err != nil {
		return fmt.Errorf("write a node: %w", err)
	}
	return nil
}

// apply writes what packets find when they look, before they look there.
func (k *kernel) apply(c changes) error {
	var errs []error
	for _, i := range c.newPages {
		errs = append(errs, k.addPage(i))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, w := range c.tables {
		errs = append(errs, k.writeSlots(w))
	}
	for _, r := range c.ranges {
		errs = append(errs, k.SourceRanges.Put(r, uint32(1)))
	}
	for key, s := range c.put {
		errs = append(errs, k.Services.Put(key, s))
	}
	for key := range c.del {
		errs = append(errs, ignoreMissing(k.Services.Delete(key)))
	}
	for _, r := range c.delRanges {
		errs = append(errs, ignoreMissing(k.SourceRanges.Delete(r)))
	}
	for _, i := range c.delPages {
		errs = append(errs, k.removePage(i))
	}
	for _, id := range c.forget {
		k.gone[id] = true
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("write the tables of steering: %w", err)
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

func (k *kernel) addPage(index uint32) error {
	m, err := program.NewPage()
	if err != nil {
		return err
	}
	memory, err := m.Memory()
	if err != nil {
		return errors.Join(fmt.Errorf("map a page of tables: %w", err), m.Close())
	}
	if err := k.Tables.Put(index, m); err != nil {
		return errors.Join(fmt.Errorf("add a page of tables: %w", err), m.Close())
	}
	k.pages[index] = &mappedPage{m, memory}
	file := k.pageFile(strconv.FormatUint(uint64(index), 10))
	if err := errors.Join(removeFile(file), m.Pin(file)); err != nil {
		return fmt.Errorf("pin a page of tables: %w", err)
	}
	return nil
}

func removeFile(file string) error {
	if err := os.Remove(file); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (k *kernel) removePage(index uint32) error {
	if err := ignoreMissing(k.Tables.Delete(index)); err != nil {
		return err
	}
	if err := removeFile(k.pageFile(strconv.FormatUint(uint64(index), 10))); err != nil {
		return fmt.Errorf("unpin a page of tables: %w", err)
	}
	p := k.pages[index]
	delete(k.pages, index)
	if p == nil {
		return nil
	}
	return p.Close()
}

const slotSize = 8

// writeSlots writes slots, each in one piece: the program runs at the same time.
func (k *kernel) writeSlots(w tableWrite) error {
	p := k.pages[w.at.page]
	if p == nil {
		return fmt.Errorf("there is no page %d of tables", w.at.page)
	}
	at := int64(w.at.start) * slotSize
	for i, s := range w.slots() {
		one := (*[slotSize]byte)(unsafe.Pointer(&s))
		if _, err := p.memory.WriteAt(one[:], at+int64(i)*slotSize); err != nil {
			return fmt.Errorf("write a table: %w", err)
		}
	}
	return nil
}

// readSlots reads a table; nil if it cannot be read.
func (k *kernel) readSlots(at location) []decide.Slot {
	p := k.pages[at.page]
	if p == nil {
		return nil
	}
	slots := make([]decide.Slot, table.Slots)
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&slots[0])), len(slots)*slotSize)
	if _, err := p.memory.ReadAt(bytes, int64(at.start)*slotSize); err != nil {
		return nil
	}
	return slots
}

// forgetGone removes the counters of Services that are gone: of all at once, since all counters are
// read for it.
func (k *kernel) forgetGone() error {
	if len(k.gone) == 0 {
		return nil
	}
	err := k.forgetCounters(func(key program.StatsKey) bool { return k.gone[key.Service] })
	if err == nil {
		clear(k.gone)
	}
	return err
}

// findGone has the counters forgotten that a process before this one left of Services that the
// tables do not have, and returns the highest id that is counted: nobody else is to get it.
func (k *kernel) findGone(have map[program.ServiceKey]program.Service) (highest uint32, err error) {
	counts, err := k.counters()
	if err != nil {
		return 0, err
	}
	ids := map[uint32]bool{}
	for _, s := range have {
		ids[s.ID] = true
	}
	for key := range counts {
		highest = max(highest, key.Service)
		if key.Service > 0 && !ids[key.Service] { // 0 is none
			k.gone[key.Service] = true
		}
	}
	return highest, nil
}

// forgetCounters removes some counters.
func (k *kernel) forgetCounters(which func(program.StatsKey) bool) error {
	counts, err := k.counters()
	if err != nil {
		return err
	}
	for key := range counts {
		if which(key) {
			if err := ignoreMissing(k.Stats.Delete(key)); err != nil {
				return err
			}
		}
	}
	return nil
}

// secondChances counts packets that were sent to others as their second chance, by Service; nil if
// that cannot be read, or not all are counted.
func (k *kernel) secondChances() map[uint32]uint64 {
	counts, err := k.counters()
	if err != nil || len(counts) >= int(k.Stats.MaxEntries()) {
		return nil
	}
	byService := map[uint32]uint64{}
	for key, n := range counts {
		if decide.Reason(key.Reason) == decide.Second {
			byService[key.Service] += n
		}
	}
	return byService
}

// monotonic is the kernel's clock that the program has, in ns.
func monotonic() uint64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // cannot fail
	return uint64(now.Nano())
}
