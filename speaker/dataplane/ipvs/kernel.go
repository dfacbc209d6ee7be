//go:build linux

package ipvs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	lib "github.com/cloudflare/ipvs"
	"github.com/cloudflare/ipvs/netmask"
	"golang.org/x/sys/unix"
)

// ErrNoIPVS says that the kernel has no IPVS, nor a module that it can load for it.
var ErrNoIPVS = errors.New(
	"the kernel has no IPVS: load the module ip_vs on the node, or build a kernel with CONFIG_IP_VS",
)

// ErrNoScheduler says that the kernel lacks a scheduler and could not load its module.
var ErrNoScheduler = errors.New("the kernel has no such IPVS scheduler: load its module ip_vs_<scheduler> on the node")

// virtualServers is the kernel's table of one network namespace. Its methods may be called
// concurrently.
type virtualServers interface {
	// table reads everything but virtual servers by firewall marks that are not ours.
	table() (Table, error)
	// glance returns a digest of each virtual server that table would show, but for flags and
	// thresholds, at a twentieth of the cost. It cannot distinguish those by the same mark: they have
	// one digest.
	glance() (map[Frontend]uint64, error)
	// virtualServer reads one; false: there is none.
	virtualServer(Frontend) (VirtualServer, bool, error)
	// apply does one operation. That it returns no error does not say that the kernel shows it.
	apply(Operation) error
	// statistics reads counters, of all frontends that owned holds for.
	statistics(owned func(Frontend) bool) ([]FrontendStatistics, error)
	// probe reports whether the kernel has a scheduler, loading its module if need be.
	probe(scheduler string) error
	close() error
}

// kernel is virtualServers by generic netlink.
type kernel struct {
	c interface {
		lib.Client
		Close() error
	}
}

// openKernel connects to IPVS of the calling thread's network namespace. Asking for the netlink
// family makes the kernel load its module.
func openKernel() (virtualServers, error) {
	c, err := lib.New()
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w (%w)", ErrNoIPVS, err)
	case err != nil:
		return nil, fmt.Errorf("connect to IPVS: %w", err)
	}
	closer, ok := c.(interface {
		lib.Client
		Close() error
	})
	if !ok {
		return nil, fmt.Errorf("connect to IPVS: a %T cannot be closed", c)
	}
	return kernel{closer}, nil
}

func (k kernel) close() error { return k.c.Close() }

func (k kernel) table() (Table, error) {
	services, err := k.services()
	if err != nil {
		return nil, err
	}
	t := make(Table, len(services))
	for _, s := range services {
		real, err := k.destinations(s.Service)
		if err != nil {
			return nil, err
		}
		t[frontendOf(s.Service)] = VirtualServer{settingsOf(s.Service), realServers(real)}
	}
	return t, nil
}

// services leaves out those by firewall marks of others.
func (k kernel) services() ([]lib.ServiceExtended, error) {
	all, err := k.c.Services()
	if err != nil && !errors.Is(err, os.ErrNotExist) { // which is an empty list
		return nil, explain("read the IPVS table", err)
	}
	ours := all[:0]
	for _, s := range all {
		if s.FWMark == 0 || s.FWMark&MarksMask == Marks {
			ours = append(ours, s)
		}
	}
	return ours, nil
}

func (k kernel) destinations(s lib.Service) ([]lib.DestinationExtended, error) {
	all, err := k.c.Destinations(s)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, explain("read the real servers of "+frontendOf(s).String(), err)
	}
	return all, nil
}

// listing is the whole table as text, for the calling thread's network namespace.
const listing = "/proc/thread-self/net/ip_vs"

func (k kernel) glance() (map[Frontend]uint64, error) {
	text, err := os.ReadFile(listing)
	if err != nil {
		return nil, explain("read the IPVS table", err)
	}
	return digests(text)
}

var digestSeed = maphash.MakeSeed()

// digests leaves out the numbers of connections, which end the line of a real server.
func digests(listing []byte) (map[Frontend]uint64, error) {
	all := map[Frontend]uint64{}
	var of []Frontend
	var h maphash.Hash
	h.SetSeed(digestSeed)
	end := func() {
		for _, f := range of {
			all[f] += h.Sum64()
		}
		of = nil
		h.Reset()
	}
	for line := range bytes.Lines(listing) {
		line = bytes.TrimRight(line, " \n")
		if fields := bytes.Fields(line); len(fields) >= 3 && protocols[string(fields[0])] {
			end()
			var err error
			if of, err = listed(string(fields[0]), string(fields[1])); err != nil {
				return nil, fmt.Errorf("read /proc/net/ip_vs: %q: %w", line, err)
			}
		} else if bytes.HasPrefix(line, []byte("  ->")) {
			for range 2 {
				line = bytes.TrimRight(line, "0123456789")
				line = bytes.TrimRight(line, " ")
			}
		}
		_, _ = h.Write(line) // it never fails
		_ = h.WriteByte('\n')
	}
	end()
	return all, nil
}

// protocols begin the line of a virtual server.
var protocols = map[string]bool{"TCP": true, "UDP": true, "SCTP": true, "FWM": true}

// listed returns the frontend of a line of the listing: "TCP", "C6120001:0050" or
// "[2001:0db8:0000:0000:0000:0000:0000:0001]:0050". For "FWM", "B7000001" that is one of each
// family, and none for marks of others.
func listed(protocol, where string) ([]Frontend, error) {
	if protocol == "FWM" {
		mark, err := strconv.ParseUint(where, 16, 32)
		if err != nil || uint32(mark)&MarksMask != Marks {
			return nil, err
		}
		return []Frontend{Marked(uint32(mark), netip.IPv4Unspecified()), Marked(uint32(mark), netip.IPv6Unspecified())}, nil
	}
	colon := strings.LastIndexByte(where, ':')
	if colon < 0 {
		return nil, errors.New("there is no port")
	}
	port, err := strconv.ParseUint(where[colon+1:], 16, 16)
	if err != nil {
		return nil, err
	}
	f := Frontend{Port: uint16(port)}
	for _, p := range []Protocol{TCP, UDP, SCTP} {
		if p.String() == protocol {
			f.Protocol = p
		}
	}
	if host, is6 := strings.CutPrefix(where[:colon], "["); is6 {
		f.Address, err = netip.ParseAddr(strings.TrimSuffix(host, "]"))
	} else {
		var a uint64
		a, err = strconv.ParseUint(host, 16, 32)
		f.Address = netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(a))))
	}
	return []Frontend{f}, err
}

func (k kernel) virtualServer(f Frontend) (VirtualServer, bool, error) {
	s, err := k.c.Service(identity(f))
	if errors.Is(err, unix.ESRCH) {
		return VirtualServer{}, false, nil
	}
	if err != nil {
		return VirtualServer{}, false, explain("read virtual server "+f.String(), err)
	}
	real, err := k.destinations(s.Service)
	if err != nil {
		return VirtualServer{}, false, err
	}
	return VirtualServer{settingsOf(s.Service), realServers(real)}, true, nil
}

func (k kernel) apply(o Operation) error {
	var err error
	service, destination := identity(o.Frontend), destinationOf(o.RealServer)
	switch o.Kind {
	case CreateVirtualServer:
		err = k.c.CreateService(serviceOf(o.Frontend, o.Settings))
	case UpdateVirtualServer:
		err = k.c.UpdateService(serviceOf(o.Frontend, o.Settings))
	case DeleteVirtualServer:
		err = k.c.RemoveService(service)
	case CreateRealServer:
		err = k.c.CreateDestination(service, destination)
	case UpdateRealServer:
		err = k.c.UpdateDestination(service, destination)
	case MoveRealServer:
		// Connections refer to the destination, which the kernel keeps in a trash and takes out again.
		if err = k.c.RemoveDestination(service, destination); err == nil {
			err = k.c.CreateDestination(service, destination)
		}
	case DeleteRealServer:
		err = k.c.RemoveDestination(service, destination)
	}
	settings := o.Kind == CreateVirtualServer || o.Kind == UpdateVirtualServer
	if settings && errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%s: %w", o, ErrNoScheduler)
	}
	return explain(o.String(), err)
}

// probeMark is the firewall mark of the virtual server that probe makes for a moment.
const probeMark = 0xbe27bee0 // none of Marks

func (k kernel) probe(scheduler string) error {
	s := lib.Service{
		FWMark: probeMark, Family: lib.INET, Netmask: netmask.MaskFrom(32, 32), Scheduler: scheduler,
	}
	err := k.c.CreateService(s)
	if errors.Is(err, unix.EEXIST) { // left by a process that was killed
		if err = k.removeProbe(s); err == nil {
			err = k.c.CreateService(s)
		}
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("scheduler %s: %w", scheduler, ErrNoScheduler)
	case err != nil:
		return explain("probe scheduler "+scheduler, err)
	}
	return explain("remove the probe of scheduler "+scheduler, k.removeProbe(s))
}

// removeProbe removes what probe made. A kube-proxy that starts may have deleted all virtual
// servers before.
func (k kernel) removeProbe(s lib.Service) error {
	if err := k.c.RemoveService(s); !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// explain adds what was done, and what to do about it. It keeps nil.
func explain(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: %w (give the speaker the capability NET_ADMIN)", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

func familyOf(f Frontend) lib.AddressFamily {
	if f.Address.Is4() {
		return lib.INET
	}
	return lib.INET6
}

func identity(f Frontend) lib.Service {
	if f.Mark != 0 {
		return lib.Service{FWMark: f.Mark, Family: familyOf(f)}
	}
	return lib.Service{Address: f.Address, Port: f.Port, Protocol: lib.Protocol(f.Protocol), Family: familyOf(f)}
}

func serviceOf(f Frontend, s Settings) lib.Service {
	v := identity(f)
	bits := f.Address.BitLen()
	v.Netmask = netmask.MaskFrom(bits, bits) // each client by itself
	v.Scheduler = s.Scheduler
	v.Flags = lib.Flags(s.Flags)
	if s.PersistenceTimeout > 0 {
		v.Flags |= lib.ServicePersistent
		v.Timeout = uint32(s.PersistenceTimeout / time.Second)
	}
	return v
}

func frontendOf(s lib.Service) Frontend {
	switch {
	case s.FWMark == 0:
		return Frontend{Address: s.Address, Port: s.Port, Protocol: Protocol(s.Protocol)}
	case s.Family == lib.INET:
		return Marked(s.FWMark, netip.IPv4Unspecified())
	}
	return Marked(s.FWMark, netip.IPv6Unspecified())
}

func settingsOf(s lib.Service) Settings {
	v := Settings{Scheduler: s.Scheduler, Flags: Flags(s.Flags &^ (lib.ServiceHashed | lib.ServicePersistent))}
	if s.Flags&lib.ServicePersistent != 0 {
		v.PersistenceTimeout = time.Duration(s.Timeout) * time.Second
	}
	v.foreign = s.Netmask.Bits() != frontendOf(s).Address.BitLen()
	return v
}

func destinationOf(r RealServer) lib.Destination {
	d := lib.Destination{Address: r.Address, Port: r.Port, Weight: r.Weight, FwdMethod: lib.Masquerade, Family: lib.INET}
	if r.Address.Is6() {
		d.Family = lib.INET6
	}
	return d
}

func realServers(all []lib.DestinationExtended) []RealServer {
	var list []RealServer
	for _, d := range all {
		list = append(list, realServerOf(d))
	}
	return list
}

func realServerOf(d lib.DestinationExtended) RealServer {
	return RealServer{
		Address: d.Address, Port: d.Port, Weight: d.Weight,
		foreign: d.FwdMethod != lib.Masquerade || d.UpperThreshold != 0 || d.LowerThreshold != 0,
	}
}
