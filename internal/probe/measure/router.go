package measure

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/internal/probe"
)

// knockAtOnce is how many routers are called at the same time.
const knockAtOnce = 8

func (n *notes) routers(ctx context.Context) {
	var work errgroup.Group
	work.SetLimit(knockAtOnce)
	for _, router := range n.asked.Routers {
		work.Go(func() error {
			knock, err := knockAt(ctx, router)
			if err != nil {
				n.fail("router %s: %v", router.Address, err)
				return nil
			}
			n.note(func(r *probe.Report) { r.Routers = append(r.Routers, knock) })
			return nil
		})
	}
	_ = work.Wait() // they return no error
}

// knockAt calls a router, unless there is a connection with it.
func knockAt(ctx context.Context, r probe.Router) (probe.Knock, error) {
	knock := probe.Knock{Neighbor: r.Neighbor, Address: r.Address}
	peer := bgp.Peer{
		Name: r.Neighbor, Address: r.Address, Port: r.Port, SourceAddress: r.Source, VRF: r.VRF,
		LocalASN: r.LocalASN, RemoteASN: r.RemoteASN,
		EBGPMultihop: r.EBGPMultihop, TTLSecurityHops: r.TTLSecurityHops,
	}
	if r.PasswordFile != "" {
		password, err := os.ReadFile(r.PasswordFile)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return knock, err
		}
		peer.Password = strings.TrimSuffix(string(password), "\n")
	}
	knock.Untried = r.Secret != "" && peer.Password == ""
	var err error
	if knock.Established, err = connected(peer.AddrPort()); err != nil || knock.Established {
		return knock, err
	}
	if knock.Signature, err = bgp.Knock(ctx, peer); err != nil {
		knock.Failure = err.Error()
	}
	return knock, nil
}

// connected reports whether this node has a TCP connection with a router's BGP, from
// either side.
func connected(router netip.AddrPort) (bool, error) {
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(file)
		if errors.Is(err, fs.ErrNotExist) { // without IPv6
			continue
		}
		if err != nil {
			return false, err
		}
		found, err := connectedIn(bufio.NewScanner(f), router)
		if err = errors.Join(err, f.Close()); err != nil || found {
			return found, err
		}
	}
	return false, nil
}

// connectedIn looks among the lines of /proc/net/tcp: number, local and remote end, state.
func connectedIn(lines *bufio.Scanner, router netip.AddrPort) (bool, error) {
	const established = "01"
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || fields[3] != established {
			continue
		}
		local, err := endOf(fields[1])
		if err != nil {
			return false, err
		}
		remote, err := endOf(fields[2])
		if err != nil {
			return false, err
		}
		if remote.Addr() == router.Addr().WithZone("") &&
			(remote.Port() == router.Port() || local.Port() == router.Port()) {
			return true, nil
		}
	}
	return false, lines.Err()
}

// endOf parses an end of a connection as the kernel prints it: words of the address in its own byte
// order, and the port.
func endOf(text string) (netip.AddrPort, error) {
	address, port, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(address)
	if err != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, fmt.Errorf("read the kernel's connections: %q is not an address and a port", text)
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, ok := netip.AddrFromSlice(b)
	number, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, fmt.Errorf("read the kernel's connections: %q is not an address and a port", text)
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(number)), nil
}
