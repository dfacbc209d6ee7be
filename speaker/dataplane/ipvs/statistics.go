//go:build linux

package ipvs

import lib "github.com/cloudflare/ipvs"

// Statistics are counters since a virtual or real server was created. The kernel brings them up to
// date every two seconds.
type Statistics struct {
	Connections           uint64 // scheduled
	PacketsIn, PacketsOut uint64
	BytesIn, BytesOut     uint64
}

// Add returns the sum of both.
func (s Statistics) Add(t Statistics) Statistics {
	return Statistics{
		s.Connections + t.Connections,
		s.PacketsIn + t.PacketsIn,
		s.PacketsOut + t.PacketsOut,
		s.BytesIn + t.BytesIn,
		s.BytesOut + t.BytesOut,
	}
}

// RealServerStatistics are those of one real server.
type RealServerStatistics struct {
	RealServer // as the kernel shows it: Draining is false, and Weight 0 for one that drains
	Statistics
	Active   uint32 // connections that are established
	Inactive uint32 // connections in any other state
}

// FrontendStatistics are those of one virtual server.
type FrontendStatistics struct {
	Frontend
	Statistics
	RealServers []RealServerStatistics
}

func (k kernel) statistics(owned func(Frontend) bool) ([]FrontendStatistics, error) {
	services, err := k.services()
	if err != nil {
		return nil, err
	}
	var all []FrontendStatistics
	for _, s := range services {
		if !owned(frontendOf(s.Service)) {
			continue
		}
		found, err := k.destinations(s.Service)
		if err != nil {
			return nil, err
		}
		v := FrontendStatistics{Frontend: frontendOf(s.Service), Statistics: statisticsOf(s.Stats64)}
		for _, d := range found {
			v.RealServers = append(v.RealServers, RealServerStatistics{
				RealServer: realServerOf(d), Statistics: statisticsOf(d.Stats64),
				Active: d.ActiveConnections, Inactive: d.InactiveConnections,
			})
		}
		all = append(all, v)
	}
	return all, nil
}

func statisticsOf(s lib.Stats) Statistics {
	return Statistics{
		Connections: s.Connections,
		PacketsIn:   s.IncomingPackets, PacketsOut: s.OutgoingPackets,
		BytesIn: s.IncomingBytes, BytesOut: s.OutgoingBytes,
	}
}
