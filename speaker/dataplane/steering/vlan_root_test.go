//go:build root

package steering

import (
	"net"
	"testing"

	"github.com/mdlayher/packet"

	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
)

// tagged is a UDP packet for the Service in a frame with a VLAN tag. Its checksum is left out.
func tagged(to, from net.HardwareAddr, vlan byte) []byte {
	f := append(append([]byte{}, to...), from...)
	f = append(f, 0x81, 0, 0, vlan, 8, 0)
	header := []byte{0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 9}
	f = append(append(f, header...), vip4.AsSlice()...)
	return append(f, 0x9c, 0x40, port>>8, port&0xff, 0, 8, 0, 0)
}

// A frame with a VLAN tag comes once more, without it, on the VLAN's interface: only there it is
// the program's business. A tag that has a priority only is none.
func TestDriver_vlanTag(t *testing.T) {
	r := newRack(t)
	d := r.start(t)
	mustSync(t, d, r.desired(t, "one"))
	owner := uplink(t).Attrs().HardwareAddr
	var c *packet.Conn
	var from net.HardwareAddr
	nettest.Within(t, r.client, func() {
		device, err := net.InterfaceByName("uplink")
		if err == nil {
			from = device.HardwareAddr
			c, err = packet.Listen(device, packet.Raw, 0x8100, nil)
		}
		if err != nil {
			t.Error(err)
		}
	})
	if c == nil {
		t.FailNow()
	}
	t.Cleanup(func() { c.Close() })
	send := func(vlan byte) {
		if _, err := c.WriteTo(tagged(owner, from, vlan), &packet.Addr{HardwareAddr: owner}); err != nil {
			t.Fatal(err)
		}
	}
	for n := range uint64(3) {
		send(100)
		send(0)
		nettest.Eventually(
			t,
			"a frame without VLAN is steered",
			func() bool { return packets(t, d)["first one"] >= n+1 },
		)
	}
	if n := packets(t, d); len(n) != 1 || n["first one"] != 3 {
		t.Errorf("counted %v, want the three frames without VLAN", n)
	}
}
