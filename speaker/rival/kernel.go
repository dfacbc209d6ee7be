package rival

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ownSockets returns the inodes of this process's sockets.
func ownSockets() (map[uint32]bool, error) {
	const folder = "/proc/self/fd"
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("list sockets of this process: %w", err)
	}
	own := map[uint32]bool{}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(folder, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue // closed since
		}
		if err != nil {
			return nil, fmt.Errorf("list sockets of this process: %w", err)
		}
		if text, ok := strings.CutPrefix(target, "socket:["); ok {
			if inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 32); err == nil {
				own[uint32(inode)] = true
			}
		}
	}
	return own, nil
}

// connections asks the kernel, by inet_diag, for the established TCP connections of this network
// namespace from port 179, and to one of these ports.
func connections(remote []uint16) ([]Connection, error) {
	devices, err := readDevices()
	if err != nil {
		return nil, err
	}
	var found []Connection
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} { // the latter has IPv4 on sockets for both, too
		requests := []diagRequest{{family: family, local: defaultPort}}
		for _, port := range remote {
			requests = append(requests, diagRequest{family: family, remote: port})
		}
		for _, r := range requests {
			answers, err := r.ask()
			if err != nil {
				return nil, fmt.Errorf("list TCP connections (inet_diag; the module tcp_diag has it): %w", err)
			}
			for _, m := range answers {
				if c, ok := devices.connection(m); ok {
					found = append(found, c)
				}
			}
		}
	}
	return found, nil
}

// diagRequest is struct inet_diag_req_v2 of linux/inet_diag.h, for established connections.
type diagRequest struct {
	family        uint8
	local, remote uint16 // ports; 0: any
}

func (diagRequest) Len() int { return 56 }

func (r diagRequest) Serialize() []byte {
	b := make([]byte, r.Len())
	b[0], b[1] = r.family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], 1<<netlink.TCP_ESTABLISHED)
	binary.BigEndian.PutUint16(b[8:], r.local)
	binary.BigEndian.PutUint16(b[10:], r.remote)
	return b
}

func (r diagRequest) ask() ([][]byte, error) {
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	request.AddData(r)
	return request.Execute(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY)
}

// devices are names by index.
type devices struct{ names, vrfs map[uint32]string }

func readDevices() (devices, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return devices{}, fmt.Errorf("list interfaces: %w", err)
	}
	return devicesOf(links), nil
}

func devicesOf(links []netlink.Link) devices {
	d := devices{map[uint32]string{}, map[uint32]string{}}
	for _, l := range links {
		d.names[uint32(l.Attrs().Index)] = l.Attrs().Name
		if l.Type() == "vrf" {
			d.vrfs[uint32(l.Attrs().Index)] = l.Attrs().Name
		}
	}
	for _, l := range links {
		if vrf, ok := d.vrfs[uint32(l.Attrs().MasterIndex)]; ok {
			d.vrfs[uint32(l.Attrs().Index)] = vrf
		}
	}
	return d
}

// connection reads struct inet_diag_msg.
func (d devices) connection(m []byte) (Connection, bool) {
	const size = 72
	if len(m) < size || m[1] != netlink.TCP_ESTABLISHED {
		return Connection{}, false
	}
	address := func(b []byte) netip.Addr {
		if m[0] == unix.AF_INET {
			return netip.AddrFrom4([4]byte(b[:4]))
		}
		return netip.AddrFrom16([16]byte(b[:16])).Unmap()
	}
	device := binary.NativeEndian.Uint32(m[40:])
	return Connection{
		Local:     netip.AddrPortFrom(address(m[8:24]), binary.BigEndian.Uint16(m[4:])),
		Remote:    netip.AddrPortFrom(address(m[24:40]), binary.BigEndian.Uint16(m[6:])),
		Interface: d.names[device], VRF: d.vrfs[device],
		Inode: binary.NativeEndian.Uint32(m[68:]),
	}, true
}
