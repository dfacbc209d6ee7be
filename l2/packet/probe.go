package packet

import (
	"encoding/binary"
	"net"
)

// probeMagic begins the messages of kubectl berth doctor --nodes, which it sends where no speaker
// does. They find out whether hellos would pass, so they are hellos to everything but a speaker,
// which ignores them.
const probeMagic = "BRTD"

const (
	probeFixed = len(probeMagic) + 8 + 1 // magic, cluster, length of the name
	// minProbe is the length to which Ethernet pads a payload.
	minProbe = 46
)

// ProbeFrame puts the name of a node, of at most 253 bytes, into a frame to all speakers and probes
// of the segment. cluster is that of election.ClusterID.
func ProbeFrame(mac net.HardwareAddr, cluster uint64, node string) []byte {
	b := make([]byte, 0, max(minProbe, probeFixed+len(node)))
	b = append(b, probeMagic...)
	b = binary.BigEndian.AppendUint64(b, cluster)
	b = append(b, byte(len(node)))
	b = append(b, node...)
	return HelloFrame(mac, b[:max(minProbe, len(b))])
}

// probeOf returns what ProbeFrame put into a frame's payload, and whether it is one.
func probeOf(payload []byte) (cluster uint64, node string, is bool) {
	if len(payload) < len(probeMagic) || string(payload[:len(probeMagic)]) != probeMagic {
		return 0, "", false
	}
	if len(payload) < probeFixed || len(payload) < probeFixed+int(payload[probeFixed-1]) {
		return 0, "", true
	}
	name := payload[probeFixed : probeFixed+int(payload[probeFixed-1])]
	return binary.BigEndian.Uint64(payload[len(probeMagic):]), string(name), true
}
