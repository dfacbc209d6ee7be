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
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/internal/probe"
)

const (
	// knockAtOnce is how many routers are called at the same time.
	knockAtOnce = 8
	// lookPause is the time between two looks at a pending call, and pendingAtMost how long one of a
	// speaker's may last.
	lookPause     = 20 * time.Millisecond
	pendingAtMost = 2500 * time.Millisecond
)

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
	return knockBy(ctx, r, contactOf)
}

// errConnected says that a router is not to be called.
var errConnected = errors.New("there is a connection")

// knockBy is knockAt with a look at what there is with a router.
func knockBy(
	ctx context.Context,
	r probe.Router,
	look func(netip.AddrPort) (contact, error),
) (probe.Knock, error) {
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
	var busy error
	signed, err := bgp.Knock(ctx, peer, func() error {
		busy = free(ctx, peer.AddrPort(), look)
		return busy
	})
	switch {
	case errors.Is(busy, errConnected):
		knock.Established = true
	case busy != nil:
		return knock, busy
	case err != nil:
		knock.Signature, knock.Failure = signed, err.Error()
	}
	return knock, nil
}

// free waits while a call to or from a router is pending, since it may become a session, and
// returns an error if there is a connection. What is pending for longer than any of a speaker's
// calls lasts is one that the router does not take.
func free(ctx context.Context, router netip.AddrPort, look func(netip.AddrPort) (contact, error)) error {
	tick := time.NewTicker(lookPause)
	defer tick.Stop()
	for until := time.Now().Add(pendingAtMost); ; {
		now, err := look(router)
		switch {
		case err != nil:
			return err
		case now == connected:
			return errConnected
		case now == none || time.Now().After(until):
			return nil
		}
		if err := wait(ctx, tick.C); err != nil {
			return err
		}
	}
}

// contact is what a node has with a router.
type contact int

const (
	none      contact = iota
	calling           // one called, and the other did not answer yet
	connected         // there is a TCP connection
)

// contactOf returns what this node has with a router's BGP, from either side.
func contactOf(router netip.AddrPort) (contact, error) {
	most := none
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(file)
		if errors.Is(err, fs.ErrNotExist) { // without IPv6
			continue
		}
		if err != nil {
			return none, err
		}
		found, err := contactIn(bufio.NewScanner(f), router)
		if err = errors.Join(err, f.Close()); err != nil {
			return none, err
		}
		most = max(most, found)
	}
	return most, nil
}

// contactIn looks among the lines of /proc/net/tcp: number, local and remote end, state.
func contactIn(lines *bufio.Scanner, router netip.AddrPort) (contact, error) {
	states := map[string]contact{"01": connected, "02": calling, "03": calling} // SYN_SENT, SYN_RECV
	most := none
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || states[fields[3]] <= most {
			continue
		}
		local, err := endOf(fields[1])
		if err != nil {
			return none, err
		}
		remote, err := endOf(fields[2])
		if err != nil {
			return none, err
		}
		if remote.Addr() == router.Addr().WithZone("") &&
			(remote.Port() == router.Port() || local.Port() == router.Port()) {
			most = states[fields[3]]
		}
	}
	return most, lines.Err()
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
