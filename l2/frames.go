package l2

import (
	"encoding/binary"
	"net"
)

// ethernetHeader is the length of two addresses and an EtherType. The kernel takes VLAN tags off before sockets
// see a frame; one of a VLAN that has no interface here is kept away by the sockets' filters.
const ethernetHeader = 14

const (
	etherTypeIPv4 = 0x0800
	etherTypeARP  = 0x0806
	etherTypeIPv6 = 0x86dd
)

func appendEthernet(b []byte, to, from net.HardwareAddr, etherType uint16) []byte {
	b = append(b, to[:6]...)
	b = append(b, from[:6]...)
	return binary.BigEndian.AppendUint16(b, etherType)
}

func broadcast() net.HardwareAddr { return net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// unicast reports whether mac can be a single interface's address.
func unicast(mac net.HardwareAddr) bool {
	return len(mac) == 6 && mac[0]&1 == 0 && [6]byte(mac) != [6]byte{}
}

// reaches reports whether frame was sent to mac or to a group. A promiscuous interface hears the rest too.
func reaches(frame []byte, mac net.HardwareAddr) bool {
	return frame[0]&1 != 0 || [6]byte(frame) == [6]byte(mac)
}
