//go:build root

package program

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
)

const (
	xdpDrop = 1
	xdpPass = 2
	xdpTX   = 3 // by the interface that it came by
	xdpSend = 4 // by another one: XDP_REDIRECT
)

// loadForXDP loads the program for XDP on an interface with that address. Its maps are those of
// the rig's program for tc.
func loadForXDP(r rig, mac [6]byte) *ebpf.Program {
	r.t.Helper()
	spec, err := loadXdp()
	r.must(err)
	r.must(spec.Variables["mac"].Set(mac))
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{
		"config": r.Config, "services": r.Services, "tables": r.Tables, "nodes": r.Nodes,
		"source_ranges": r.SourceRanges, "fragments": r.Fragments, "stats": r.Stats,
	}})
	r.must(err)
	r.t.Cleanup(c.Close)
	return c.Programs["berth_xdp"]
}

// neighbors makes an interface, and has the kernel know the nodes' MAC addresses there.
func neighbors(t *testing.T) netlink.Link {
	t.Helper()
	made := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up"}, PeerName: "peer"}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netlink.LinkAdd(made))
	t.Cleanup(func() { _ = netlink.LinkDel(made) })
	link, err := netlink.LinkByName("up")
	must(err)
	peer, err := netlink.LinkByName("peer")
	must(err)
	must(netlink.LinkSetUp(peer))
	must(netlink.LinkSetUp(link))
	for _, a := range []string{"10.0.0.9/24", "fd00::9/64"} {
		parsed, err := netlink.ParseAddr(a)
		must(err)
		must(netlink.AddrAdd(link, parsed))
	}
	for n := range byte(self) {
		for _, a := range []net.IP{node4(n).AsSlice(), node6(n).AsSlice()} {
			must(netlink.NeighSet(&netlink.Neigh{
				LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a,
				HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, n},
			}))
		}
	}
	for _, family := range []string{"ipv4", "ipv6"} { // the kernel tells a program no next hop without
		must(os.WriteFile("/proc/sys/net/"+family+"/conf/all/forwarding", []byte("1"), 0))
	}
	return link
}

// The program for XDP sends on what the one at tc would, to the same node, with the same
// content. It does so with all that goes to another node without asking conntrack, and the rest
// passes as it came.
func TestXDP_asAtTC(t *testing.T) {
	link := neighbors(t)
	mac := link.Attrs().HardwareAddr
	r := load(t)
	atDriver := loadForXDP(r, [6]byte{}) // frames come by the interface lo
	chosen := rand.Uint64()
	t.Log("random numbers from", chosen)
	random, all := rand.New(rand.NewPCG(chosen, 0)), seeds()
	taken, left := 0, 0
	var s settings
	for i := range frames(t) {
		if i%20 == 0 {
			s, _ = randomSettings(random)
			for n, node := range s.nodes {
				node.Interface = uint32(link.Attrs().Index)
				s.nodes[n] = node
			}
			r.write(s)
		}
		frame := mutate(random, all[random.IntN(len(all))])
		atXDP, atTC := r.runBy(atDriver, frame), r.run(frame)
		if err := compare(atXDP, atTC, frame, s.service.Flags, mac); err != nil {
			t.Fatalf("%x by %+v: %v", frame, s, err)
		}
		if atXDP.result == xdpPass {
			left++
		} else {
			taken++
		}
	}
	if taken < 50 || left < 50 {
		t.Errorf("%d frames were taken, %d were left: too few of one", taken, left)
	}
}

// compare compares what became of a frame, on an interface with that address.
func compare(atXDP, atTC outcome, frame []byte, flags uint32, mac net.HardwareAddr) error {
	if atXDP.result == xdpPass {
		if len(atXDP.counted) != 0 || !bytes.Equal(atXDP.frame, frame) {
			return fmt.Errorf("it passes, but not as it came: %v", atXDP.counted)
		}
		asks, unpacked := flags&(TCPChance|UDPChance) != 0, len(atTC.counted) > 1
		if atTC.result == redirect && !asks && !unpacked {
			return fmt.Errorf("it passes, but tc sends it on: %v", atTC.counted)
		}
		return nil
	}
	if atXDP.result != xdpSend || atTC.result != redirect || !maps.Equal(atXDP.counted, atTC.counted) {
		return fmt.Errorf("%d by XDP, %d by tc: %v, %v", atXDP.result, atTC.result, atXDP.counted, atTC.counted)
	}
	for _, n := range atTC.counted { // there is one
		want := slices.Concat([]byte{2, 0, 0, 0, 0, byte(n)}, mac, atTC.frame[12:])
		if !bytes.Equal(atXDP.frame, want) {
			return fmt.Errorf("it is\n%x, want\n%x", atXDP.frame, want)
		}
	}
	return nil
}
