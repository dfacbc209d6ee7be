package neighbor

import (
	"encoding/binary"
	"net"
)

// EthernetHeader is the length of two addresses and an EtherType. The kernel removes VLAN tags
// before sockets see a frame. The filters of the sockets reject frames of VLANs that have no
// interface.
const EthernetHeader = 14

// The EtherTypes of frames that are read and sent.
const (
	EtherTypeIPv4 = 0x0800
	EtherTypeARP  = 0x0806
	EtherTypeIPv6 = 0x86dd
)

// AppendEthernet appends an Ethernet header to b.
func AppendEthernet(b []byte, to, from net.HardwareAddr, etherType uint16) []byte {
	b = append(b, to[:6]...)
	b = append(b, from[:6]...)
	return binary.BigEndian.AppendUint16(b, etherType)
}

func broadcast() net.HardwareAddr { return net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// IsUnicast reports whether mac can be the address of a single interface.
func IsUnicast(mac net.HardwareAddr) bool {
	return len(mac) == 6 && mac[0]&1 == 0 && [6]byte(mac) != [6]byte{}
}

// reaches reports whether the frame was sent to mac or to a group. A promiscuous interface receives
// other frames too.
func reaches(frame []byte, mac net.HardwareAddr) bool {
	return frame[0]&1 != 0 || [6]byte(frame) == [6]byte(mac)
}
