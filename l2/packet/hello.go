package packet

import (
	"net"

	"github.com/berth-lb/berth/l2/neighbor"
)

// etherTypeHello is a local experimental EtherType (IEEE 802).
const etherTypeHello = 0x88b5

// helloGroup is a locally administered multicast group. Switches and bridges flood it like any
// unknown group, while they keep the standard's own link-local groups (01:80:c2:00:00:0x) to
// themselves.
func helloGroup() net.HardwareAddr { return net.HardwareAddr{0x03, 'b', 'e', 'r', 't', 'h'} }

// EchoFrame puts a payload into an Ethernet frame from mac to another interface of this node.
func EchoFrame(to [6]byte, mac net.HardwareAddr, payload []byte) []byte {
	b := make([]byte, 0, neighbor.EthernetHeader+len(payload))
	b = neighbor.AppendEthernet(b, to[:], mac, etherTypeHello)
	return append(b, payload...)
}

// HelloFrame puts a payload into an Ethernet frame from mac to all speakers of the segment.
func HelloFrame(mac net.HardwareAddr, payload []byte) []byte {
	b := make([]byte, 0, neighbor.EthernetHeader+len(payload))
	b = neighbor.AppendEthernet(b, helloGroup(), mac, etherTypeHello)
	return append(b, payload...)
}
