package steering

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The filter on kernels without tcx: nobody else's has this priority and handle.
const (
	filterName     = "berth_steer"
	filterPriority = 0x4245
	filterHandle   = 0xbe47
)

// attachments are where the program is attached. A link of tcx is pinned, by the index of its
// interface: names may have dots, which a bpffs does not take. A filter stays by itself.
type attachments struct {
	folder string               // of pinned links
	links  map[string]link.Link // by pin
	// filters: tcx is not used.
	filters bool
}

func newAttachments(folder string) *attachments {
	return &attachments{folder: filepath.Join(folder, "links"), links: map[string]link.Link{}}
}

// sync attaches the program to these interfaces, and to no others.
func (a *attachments) sync(p *ebpf.Program, interfaces []string) error {
	if err := os.MkdirAll(a.folder, 0o700); err != nil {
		return fmt.Errorf("make the folder for pinned links: %w", err)
	}
	wanted := map[string]bool{}
	var errs []error
	for _, name := range interfaces {
		device, err := netlink.LinkByName(name)
		if err == nil {
			wanted[pinOf(device)] = true
			err = a.attach(p, device)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("attach the steering program to %s: %w", name, err))
		}
	}
	return errors.Join(append(errs, a.detachOthers(wanted))...)
}

func pinOf(device netlink.Link) string { return strconv.Itoa(device.Attrs().Index) }

func (a *attachments) attach(p *ebpf.Program, device netlink.Link) error {
	if device.Attrs().EncapType != "ether" && device.Attrs().EncapType != "loopback" {
		return fmt.Errorf("its frames have no Ethernet header (%s)", device.Attrs().EncapType)
	}
	if a.filters {
		return filter(p, device)
	}
	err := a.attachTCX(p, device)
	if errors.Is(err, ebpf.ErrNotSupported) {
		a.filters = true
		return filter(p, device)
	}
	if err != nil {
		return err
	}
	return removeFilter(device) // of a time before tcx
}

// attachTCX has an interface's packets go through the program before those of others: those that
// end a packet's way there would keep it from ours, and what we send elsewhere meets them there.
func (a *attachments) attachTCX(p *ebpf.Program, device netlink.Link) error {
	name, index := pinOf(device), device.Attrs().Index
	pin := filepath.Join(a.folder, name)
	if a.links[name] == nil {
		if l, err := link.LoadPinnedLink(pin, nil); err == nil {
			a.links[name] = l
		}
	}
	if l := a.links[name]; l != nil {
		if at, err := interfaceOf(l); err == nil && at == index {
			return l.Update(p)
		}
		// Somebody detached it.
		if err := a.detach(name); err != nil {
			return err
		}
	}
	l, err := link.AttachTCX(
		link.TCXOptions{Interface: index, Program: p, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()},
	)
	if err != nil {
		return err
	}
	if err := l.Pin(pin); err != nil {
		return errors.Join(err, l.Close())
	}
	a.links[name] = l
	return nil
}

func interfaceOf(l link.Link) (int, error) {
	info, err := l.Info()
	if err != nil {
		return 0, err
	}
	if tcx := info.TCX(); tcx != nil {
		return int(tcx.Ifindex), nil
	}
	return 0, errors.New("not a link of tcx")
}

// detach ends a link, pinned or not: at once, which removing the pin alone does not.
func (a *attachments) detach(name string) error {
	pin := filepath.Join(a.folder, name)
	l := a.links[name]
	if l == nil {
		l, _ = link.LoadPinnedLink(pin, nil) // what is no link is removed all the same
	}
	var err error
	if l != nil {
		if err = l.Detach(); errors.Is(err, unix.ENOLINK) { // its interface is gone
			err = nil
		}
		err = errors.Join(err, l.Close())
		delete(a.links, name)
	}
	if errRemove := os.Remove(pin); !errors.Is(errRemove, os.ErrNotExist) {
		err = errors.Join(err, errRemove)
	}
	return err
}

func (a *attachments) detachOthers(wanted map[string]bool) error {
	pinned, err := os.ReadDir(a.folder)
	if err != nil {
		return fmt.Errorf("list pinned links: %w", err)
	}
	var errs []error
	for _, f := range pinned {
		if !wanted[f.Name()] {
			errs = append(errs, a.detach(f.Name()))
		}
	}
	if a.filters || len(wanted) == 0 {
		errs = append(errs, removeFilters(wanted))
	}
	return errors.Join(errs...)
}

// filter attaches the program by a filter of the qdisc clsact, which is made if there is none.
func filter(p *ebpf.Program, device netlink.Link) error {
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: device.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscAdd(qdisc); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("add the qdisc clsact: %w", err)
	}
	f := ownFilter(device)
	f.Fd, f.Name, f.DirectAction = p.FD(), filterName, true
	if err := netlink.FilterReplace(f); err != nil {
		return fmt.Errorf("add a filter: %w", err)
	}
	return nil
}

func ownFilter(device netlink.Link) *netlink.BpfFilter {
	return &netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{
		LinkIndex: device.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: filterHandle,
		Priority: filterPriority, Protocol: unix.ETH_P_ALL,
	}}
}

func removeFilters(but map[string]bool) error {
	devices, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var errs []error
	for _, d := range devices {
		if !but[pinOf(d)] {
			errs = append(errs, removeFilter(d))
		}
	}
	return errors.Join(errs...)
}

// removeFilter removes the program's filter from an interface, and the qdisc if nobody else uses
// it.
func removeFilter(device netlink.Link) error {
	filters, err := netlink.FilterList(device, netlink.HANDLE_MIN_INGRESS)
	if err != nil || !hasOwn(filters) {
		return nil //nolint:nilerr // an interface without a qdisc that has filters
	}
	if err := netlink.FilterDel(ownFilter(device)); err != nil {
		return fmt.Errorf("remove the filter from %s: %w", device.Attrs().Name, err)
	}
	egress, err := netlink.FilterList(device, netlink.HANDLE_MIN_EGRESS)
	if err != nil || len(filters) > 1 || len(egress) > 0 {
		return nil //nolint:nilerr // it is in use
	}
	qdisc := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: device.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
	if err := netlink.QdiscDel(qdisc); err != nil {
		return fmt.Errorf("remove the qdisc clsact from %s: %w", device.Attrs().Name, err)
	}
	return nil
}

func hasOwn(filters []netlink.Filter) bool {
	for _, f := range filters {
		b, ok := f.(*netlink.BpfFilter)
		if ok && b.Attrs().Priority == filterPriority && b.Attrs().Handle == filterHandle {
			return true
		}
	}
	return false
}

// close forgets the links. What is pinned stays attached.
func (a *attachments) close() error {
	var errs []error
	for _, l := range a.links {
		errs = append(errs, l.Close())
	}
	a.links = nil
	return errors.Join(errs...)
}
