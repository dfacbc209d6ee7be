package neighbor

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"
)

// Beyond a number of groups this process, not the kernel, is the multicast listener (RFC 3810, and
// RFC 2710 for queriers that speak only that), as far as a listener of all sources goes: it reports
// what it joins and leaves, and answers queries.
const (
	TypeListenerQuery    = 130
	typeListenerReport   = 131
	typeListenerDone     = 132
	typeListenerReportV2 = 143

	MLDHopLimit      = 1
	HopByHop         = 8  // length of the header with the router alert, RFC 2711
	recordsPerReport = 60 // a report fits into the smallest IPv6 MTU
)

// ListenerChange is what a record of a report says about a group, RFC 3810 section 5.2.12.
type ListenerChange uint8

// The records of reports that are sent.
const (
	IsListener  ListenerChange = 2 // MODE_IS_EXCLUDE of no source: all are listened to
	NotListener ListenerChange = 3 // CHANGE_TO_INCLUDE of no source
	NowListener ListenerChange = 4 // CHANGE_TO_EXCLUDE of no source
)

// MLDQuery asks which nodes listen to a group.
type MLDQuery struct {
	Group  netip.Addr    // unspecified: any
	Within time.Duration // an answer is due
	V1     bool          // the query, and so the answer, is of MLD's first version
}

// ParseMLDQuery accepts queries that are valid by RFC 3810 sections 5.1.14 and 6.2.
func ParseMLDQuery(frame []byte) (MLDQuery, bool) {
	const start = EthernetHeader + IPv6Header + HopByHop
	if len(frame) < start+24 {
		return MLDQuery{}, false
	}
	ip := frame[EthernetHeader:]
	length := int(binary.BigEndian.Uint16(ip[4:])) - HopByHop
	from, to := netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
	if ip[0]>>4 != 6 || ip[6] != 0 || ip[7] != MLDHopLimit || ip[IPv6Header] != ProtoICMPv6 || ip[IPv6Header+1] != 0 ||
		length < 24 || length > len(frame)-start || !from.IsLinkLocalUnicast() || !to.IsMulticast() {
		return MLDQuery{}, false
	}
	body := frame[start : start+length]
	if body[0] != TypeListenerQuery || checksum(from, to, body) != 0 {
		return MLDQuery{}, false
	}
	// Above 32767 the code is a floating-point number. Such long delays are not needed.
	delay := min(binary.BigEndian.Uint16(body[4:]), 1<<15-1)
	return MLDQuery{
		Group:  netip.AddrFrom16([16]byte(body[8:])),
		Within: time.Duration(delay) * time.Millisecond,
		V1:     length < 28,
	}, true
}

// ListenerReports returns frames that report the same change for each group.
func ListenerReports(mac net.HardwareAddr, change ListenerChange, groups []netip.Addr) [][]byte {
	to := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 15: 0x16})
	var frames [][]byte
	for len(groups) > 0 {
		some := groups[:min(recordsPerReport, len(groups))]
		groups = groups[len(some):]
		body := binary.BigEndian.AppendUint16([]byte{typeListenerReportV2, 0, 0, 0, 0, 0}, uint16(len(some)))
		for _, group := range some {
			body = append(append(body, byte(change), 0, 0, 0), group.AsSlice()...)
		}
		frames = append(frames, mldFrame(mac, to, body))
	}
	return frames
}

// ListenerReportsV1 returns the same for queriers of MLD's first version.
func ListenerReportsV1(mac net.HardwareAddr, change ListenerChange, groups []netip.Addr) [][]byte {
	var frames [][]byte
	for _, group := range groups {
		kind, to := byte(typeListenerReport), group
		if change == NotListener {
			kind, to = typeListenerDone, netip.IPv6LinkLocalAllRouters()
		}
		frames = append(frames, mldFrame(mac, to, append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, group.AsSlice()...)))
	}
	return frames
}

// mldFrame sends body from the link-local address that belongs to mac. Switches accept no other,
// and the interface's own may still be tentative.
func mldFrame(mac net.HardwareAddr, to netip.Addr, body []byte) []byte {
	from := netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5],
	})
	binary.BigEndian.PutUint16(body[2:], checksum(from, to, body))
	from16, to16 := from.As16(), to.As16()
	b := AppendEthernet(nil, MulticastMAC(to), mac, EtherTypeIPv6)
	b = append(b, 6<<4, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(HopByHop+len(body)))
	b = append(b, 0, MLDHopLimit)
	b = append(b, from16[:]...)
	b = append(b, to16[:]...)
	b = append(b, ProtoICMPv6, 0, 5, 2, 0, 0, 1, 0) // router alert for MLD, and padding
	return append(b, body...)
}
