package steering

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"

	"github.com/berth-lb/berth/speaker/dataplane/steering/program"
)

const (
	// lease is for how long the program steers after the last Refresh or Sync.
	// That is longer than a kubelet waits before it starts a container again that crashed.
	lease = 10 * time.Minute
	// settle is for how long after a change other nodes may not have heard of it: what nobody knows
	// is dropped, so that clients try again, and not reset.
	settle = 1500 * time.Millisecond
)

// Config of a Driver.
type Config struct {
	// Pins is a folder on a bpffs, which may not exist. It is Berth's alone.
	Pins string
}

// Driver brings the kernel's steering to what is desired. Its methods may be called from any
// goroutine. What it wrote goes on when the process is away, until the lease is over.
type Driver struct {
	config Config
	nodes  *nodeMaps
	names  atomic.Pointer[serviceNames]

	reading sync.RWMutex // held by who reads the kernel's maps without mu; Close waits for them

	mu       sync.Mutex // guards all below
	kernel   *kernel
	attached *attachments
	services *services
	desired  Desired
	index    map[string]uint16 // of nodes
	failing  failures          // Services that are not as desired
	synced   bool              // once, and nothing failed since
}

// New loads the program, with the maps of a process before this one if there was one. Nothing is
// attached until the first Sync.
func New(c Config) (*Driver, error) {
	k, err := open(c.Pins)
	if err != nil {
		return nil, err
	}
	d := &Driver{config: c, nodes: &nodeMaps{kernel: k}, kernel: k, attached: newAttachments(c.Pins)}
	if err := d.read(); err != nil {
		return nil, errors.Join(err, k.close())
	}
	return d, nil
}

// read takes over what is in the kernel.
func (d *Driver) read() error {
	d.synced = false
	have, err := d.kernel.foundServices()
	if err != nil {
		return err
	}
	pages, err := d.kernel.foundPages()
	if err != nil {
		return err
	}
	ranges, err := d.kernel.foundRanges()
	if err != nil {
		return err
	}
	counted, err := d.kernel.findGone(have)
	if err != nil {
		return err
	}
	d.services = newServices(have, ranges, pages, d.kernel.readSlots)
	d.services.lastID = max(d.services.lastID, counted)
	d.names.Store(d.services.names)
	return d.nodes.read()
}

// ErrSeed is that another seed is desired than the one that packets are hashed with.
var ErrSeed = errors.New(
	"the seed of steering cannot change while it runs: uninstall it first, which breaks connections",
)

// PartialError is about single Services or interfaces: the kernel has all else that is desired.
type PartialError struct{ error }

// Unwrap returns what is wrong with them.
func (e *PartialError) Unwrap() error { return e.error }

// Sync brings the kernel to what is desired. Errors about single Services, or interfaces, do not
// keep the others from theirs; if there are no others, it returns a PartialError.
func (d *Driver) Sync(desired Desired) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := desired.check(); err != nil {
		return err
	}
	now := time.Now()
	desired.Services = maps.Clone(desired.Services)
	return d.sync(desired, now)
}

// sync needs the lock.
func (d *Driver) sync(desired Desired, now time.Time) error {
	index, changed, err := d.nodes.sync(desired, now)
	if errors.Is(err, ErrSeed) {
		return err
	} else if err != nil {
		return errors.Join(err, d.read())
	}
	again := changed || desired.Self != d.desired.Self
	d.desired, d.index = desired, index
	var c changes
	c, d.failing = d.services.sync(desired, index, again, now, d.kernel.secondChances)
	if err := errors.Join(d.write(c), d.nodes.removeOthers()); err != nil {
		// What is in the kernel is not known any more.
		return errors.Join(err, d.read())
	}
	d.synced = true
	return partial(d.failing.err(), d.attached.sync(d.kernel.Steer, desired.Interfaces), d.removeOlder())
}

// Update is Sync where nothing has changed but these Services, and costs no more than they do.
func (d *Driver) Update(changed map[string]Service, removed []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.desired.Services == nil {
		return errors.New("steering has nothing to update: it was not synced")
	}
	names := slices.Concat(slices.Collect(maps.Keys(changed)), removed, slices.Collect(maps.Keys(d.failing)))
	maps.Copy(d.desired.Services, changed)
	for _, name := range removed {
		delete(d.desired.Services, name)
	}
	now := time.Now()
	if !d.synced {
		return d.sync(d.desired, now)
	}
	var c changes
	c, d.failing = d.services.update(d.desired, d.index, names, now)
	if err := d.write(c); err != nil {
		return errors.Join(err, d.read())
	}
	return partial(d.failing.err())
}

func partial(errs ...error) error {
	if err := errors.Join(errs...); err != nil {
		return &PartialError{err}
	}
	return nil
}

// write writes tables, whose nodes are there already.
func (d *Driver) write(c changes) error {
	if err := d.nodes.configure(!c.empty()); err != nil {
		return err
	}
	if err := d.kernel.apply(c); err != nil {
		return err
	}
	return d.nodes.prolong()
}

// Suspect replaces the nodes that are thought dead, and those of them that are so beyond doubt: one
// write for each that changes, for all Services. It does not wait for a Sync that is under way.
// That a node is thought dead stays until something else is said, also through a restart. Unknown
// nodes are ignored. This node gets its packets all the same, but asks others about them.
func (d *Driver) Suspect(suspects, dead map[string]bool) error {
	return d.nodes.suspect(suspects, dead, time.Now())
}

// Suspected returns the other nodes that are thought dead, of those that are known since the first
// Sync.
func (d *Driver) Suspected() []string { return d.nodes.suspected() }

// Refresh prolongs the lease, and repairs what others changed: maps, and where the program is
// attached. Call it at least once a minute. It does nothing before the first Sync.
func (d *Driver) Refresh() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.synced {
		return nil
	}
	var errReload error
	if !d.kernel.chance && tracksConnections() {
		errReload = d.kernel.reload()
	}
	return errors.Join(errReload, d.repair(), d.attached.sync(d.kernel.Steer, d.desired.Interfaces))
}

func (d *Driver) repair() error {
	now := time.Now()
	have, err := d.kernel.foundServices()
	if err != nil {
		return err
	}
	ranges, err := d.kernel.foundRanges()
	if err != nil {
		return err
	}
	index, err := d.nodes.repair(now)
	if err != nil {
		return err
	}
	late, _ := d.services.sync(
		d.desired,
		index,
		false,
		now,
		d.kernel.secondChances,
	) // what is refused was said by Sync
	for _, c := range []changes{late, d.services.repair(have, ranges, d.kernel.readSlots, index)} {
		if err := d.write(c); err != nil {
			return errors.Join(err, d.read())
		}
	}
	return errors.Join(d.kernel.forgetGone(), d.nodes.removeOthers())
}

// Features are what this kernel has of what is not necessary.
type Features struct {
	// SecondChance: conntrack can be asked (Linux 5.18, module nf_conntrack loaded).
	SecondChance bool
	// SecondChanceToCome: conntrack cannot be asked yet, and perhaps it can once it is loaded.
	SecondChanceToCome bool
	// TCX: the program is attached by links of tcx (Linux 6.6), not by filters.
	TCX bool
}

// Features returns what this kernel has. TCX is known after the first Sync.
func (d *Driver) Features() Features {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Features{
		SecondChance: d.kernel.chance, TCX: !d.attached.filters,
		SecondChanceToCome: !d.kernel.chance && (!conntrackLoaded() || tracksConnections()),
	}
}

// Close ends the Driver. The kernel goes on steering.
func (d *Driver) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reading.Lock()
	defer d.reading.Unlock()
	return errors.Join(d.kernel.forgetGone(), d.attached.close(), d.kernel.close())
}

// removeOlder removes maps of other layouts, which nothing uses now.
func (d *Driver) removeOlder() error {
	entries, err := os.ReadDir(d.config.Pins)
	if err != nil {
		return fmt.Errorf("list what is pinned: %w", err)
	}
	var errs []error
	for _, e := range entries {
		version, ok := strings.CutPrefix(e.Name(), "v")
		if _, err := strconv.Atoi(version); ok && err == nil && version != strconv.Itoa(layout) {
			errs = append(errs, os.RemoveAll(filepath.Join(d.config.Pins, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// Steers reports whether the program that a process before this one left, with pins in a folder,
// steers and goes on to for a while.
func Steers(pins string) bool {
	m, c, err := pinnedConfiguration(pins)
	if err != nil {
		return false
	}
	defer m.Close()
	return c.Flags&program.On != 0 && c.Deadline > monotonic()
}

// Prolong prolongs the lease of what a process before this one left with pins in a folder, if it
// steers. A process that does not know yet what is desired calls it at least once a minute.
func Prolong(pins string) error {
	m, c, err := pinnedConfiguration(pins)
	if err != nil {
		return nil // there is nothing to prolong
	}
	defer m.Close()
	if c.Flags&program.On == 0 || c.Deadline <= monotonic() {
		return nil
	}
	c.Deadline = monotonic() + uint64(lease)
	if err := m.Put(uint32(0), &c); err != nil {
		return fmt.Errorf("prolong the lease of steering: %w", err)
	}
	return nil
}

func pinnedConfiguration(pins string) (*ebpf.Map, program.Configuration, error) {
	var c program.Configuration
	m, err := ebpf.LoadPinnedMap(filepath.Join(pins, "v"+strconv.Itoa(layout), "config"), nil)
	if err != nil {
		return nil, c, err
	}
	if err := m.Lookup(uint32(0), &c); err != nil {
		return nil, c, errors.Join(err, m.Close())
	}
	return m, c, nil
}

// Uninstall detaches the program and removes all that is pinned in a folder, by whatever version. A
// Driver that has it open must be closed.
func Uninstall(pins string) error {
	if _, err := os.Stat(pins); errors.Is(err, fs.ErrNotExist) {
		return removeFilters(nil)
	}
	a := newAttachments(pins)
	var errs []error
	if _, err := os.Stat(a.folder); err == nil {
		errs = append(errs, a.detachOthers(nil))
	}
	errs = append(errs, removeFilters(nil), os.RemoveAll(pins))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("uninstall steering: %w", err)
	}
	return nil
}
