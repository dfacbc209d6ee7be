package neighbor

import (
	"encoding/binary"
	"net"
)

// ethernetHeader is the length of two addresses and an EtherType. The kernel takes VLAN tags off before sockets
// see a frame; one of a VLAN that has no interface here is kept away by the sockets' filters.
const EthernetHeader = 14

const (
	EtherTypeIPv4 = 0x0800
	EtherTypeARP  = 0x0806
	EtherTypeIPv6 = 0x86dd
)

func AppendEthernet(b []byte, to, from net.HardwareAddr, etherType uint16) []byte {
	b = append(b, to[:6]...)
	b = append(b, from[:6]...)
	return binary.BigEndian.AppendUint16(b, etherType)
}

func broadcast() net.HardwareAddr { return net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// unicast reports whether mac can be a single interface's address.
func IsUnicast(mac net.HardwareAddr) bool {
	return len(mac) == 6 && mac[0]&1 == 0 && [6]byte(mac) != [6]byte{}
}

// reaches reports whether frame was sent to mac or to a group. A promiscuous interface hears the rest too.
func reaches(frame []byte, mac net.HardwareAddr) bool {
	return frame[0]&1 != 0 || [6]byte(frame) == [6]byte(mac)
}
