package l2

import (
	"encoding/binary"
	"net"
)

// ethernetHeader is the length of two addresses and an EtherType; the sockets see frames without VLAN tags,
// because the kernel has taken them off.
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
