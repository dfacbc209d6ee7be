package rival

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

func connection(local, remote string) Connection {
	return Connection{Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Inode: 1}
}

func (c Connection) on(iface, vrf string) Connection {
	c.Interface, c.VRF = iface, vrf
	return c
}

func TestRouter_Has(t *testing.T) {
	at := func(a string) Router { return Router{Address: netip.MustParseAddr(a)} }
	tor := at("172.30.0.1")
	for _, c := range []struct {
		name       string
		router     Router
		connection Connection
		want       bool
	}{
		{
			name:       "this node dialed",
			router:     tor,
			connection: connection("172.30.0.11:40000", "172.30.0.1:179"),
			want:       true,
		},
		{
			name:       "the router dialed",
			router:     tor,
			connection: connection("172.30.0.11:179", "172.30.0.1:40000"),
			want:       true,
		},
		{
			name:       "another router",
			router:     tor,
			connection: connection("172.30.0.11:40000", "172.30.0.2:179"),
		},
		{
			name:       "another protocol",
			router:     tor,
			connection: connection("172.30.0.11:40000", "172.30.0.1:443"),
		},
		{
			name:       "another port",
			router:     Router{Address: tor.Address, Port: 1179},
			connection: connection("172.30.0.11:40000", "172.30.0.1:179"),
		},
		{
			name:       "that other port",
			router:     Router{Address: tor.Address, Port: 1179},
			connection: connection("172.30.0.11:40000", "172.30.0.1:1179"),
			want:       true,
		},
		{
			name:       "from another address than ours would be",
			router:     Router{Address: tor.Address, Source: netip.MustParseAddr("172.30.0.12")},
			connection: connection("172.30.0.11:40000", "172.30.0.1:179"),
		},
		{
			name:       "from the same address",
			router:     Router{Address: tor.Address, Source: netip.MustParseAddr("172.30.0.11")},
			connection: connection("172.30.0.11:40000", "172.30.0.1:179"),
			want:       true,
		},
		{
			name:       "IPv6",
			router:     at("fd00::1"),
			connection: connection("[fd00::11]:40000", "[fd00::1]:179"),
			want:       true,
		},
		{
			name:       "a link-local address",
			router:     at("fe80::1%eth0"),
			connection: connection("[fe80::11]:40000", "[fe80::1]:179").on("eth0", ""),
			want:       true,
		},
		{
			name:       "the same one elsewhere",
			router:     at("fe80::1%eth0"),
			connection: connection("[fe80::11]:40000", "[fe80::1]:179").on("eth1", ""),
		},
		{
			name:       "unnumbered",
			router:     Router{Interface: "eth0"},
			connection: connection("[fe80::11]:40000", "[fe80::1]:179").on("eth0", ""),
			want:       true,
		},
		{
			name:       "unnumbered on another interface",
			router:     Router{Interface: "eth0"},
			connection: connection("[fe80::11]:40000", "[fe80::1]:179").on("eth1", ""),
		},
		{
			name:       "numbered on that interface",
			router:     Router{Interface: "eth0"},
			connection: connection("[fd00::11]:40000", "[fd00::1]:179").on("eth0", ""),
		},
		{
			name:       "in the VRF",
			router:     Router{Address: tor.Address, VRF: "blue"},
			connection: connection("172.30.0.11:40000", "172.30.0.1:179").on("blue", "blue"),
			want:       true,
		},
		{
			name:       "in no VRF",
			router:     Router{Address: tor.Address, VRF: "blue"},
			connection: connection("172.30.0.11:40000", "172.30.0.1:179"),
		},
		{
			name:       "in a VRF, and the peer is not",
			router:     tor,
			connection: connection("172.30.0.11:40000", "172.30.0.1:179").on("eth1", "blue"),
		},
		{
			name:       "bound to an interface",
			router:     tor,
			connection: connection("172.30.0.11:40000", "172.30.0.1:179").on("eth0", ""),
			want:       true,
		},
		{
			name:       "no router",
			router:     Router{},
			connection: connection("172.30.0.11:40000", "172.30.0.1:179"),
		},
	} {
		if got := c.router.Has(c.connection); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestOthers(t *testing.T) {
	one, two, none := connection(
		"10.0.0.1:1",
		"10.0.0.2:179",
	), connection(
		"10.0.0.1:2",
		"10.0.0.2:179",
	), connection(
		"10.0.0.1:179",
		"10.0.0.2:3",
	)
	two.Inode, none.Inode = 2, 0
	if got := others([]Connection{one, two, none}, map[uint32]bool{1: true}); !slices.Equal(got, []Connection{two}) {
		t.Errorf("%v, want %v", got, []Connection{two})
	}
}

func TestDevices_connection_vrf(t *testing.T) {
	link := func(index, master int, name string) netlink.LinkAttrs {
		return netlink.LinkAttrs{Index: index, MasterIndex: master, Name: name}
	}
	d := devicesOf([]netlink.Link{
		&netlink.Device{
			LinkAttrs: link(1, 0, "lo"),
		}, &netlink.Device{LinkAttrs: link(2, 4, "eth1")}, &netlink.Device{LinkAttrs: link(3, 5, "eth2")},
		&netlink.Vrf{LinkAttrs: link(4, 0, "blue")}, &netlink.Bridge{LinkAttrs: link(5, 0, "br0")},
	})
	if want := map[uint32]string{2: "blue", 4: "blue"}; !maps.Equal(d.vrfs, want) {
		t.Errorf("in VRFs: %v, want %v", d.vrfs, want)
	}
}

func FuzzWhatTheKernelSaysOfASocket(f *testing.F) {
	f.Add(make([]byte, 72))
	f.Add([]byte{2, 1})
	f.Add(append([]byte{10, 1, 0, 0, 0, 179}, make([]byte, 66)...))
	f.Fuzz(func(_ *testing.T, m []byte) {
		if c, ok := (devices{}).connection(m); ok {
			Router{Address: netip.MustParseAddr("10.0.0.1")}.Has(c)
		}
	})
}
