//go:build root

package bgp

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"testing"

	"github.com/berth-lb/berth/bgp/community"
)

// TestFiveThousandRoutesArriveWithAnyTwoAttributes replaces all routes for each pair, by others
// that tell one router the pair and another nothing.
func TestFiveThousandRoutesArriveWithAnyTwoAttributes(t *testing.T) {
	const n = 5000
	med, pref := uint32(30), uint32(250)
	kinds := []struct {
		words string
		set   func(*Attributes)
	}{
		{", med 30", func(a *Attributes) { a.MED = &med }},
		{"", func(a *Attributes) { a.LocalPref = &pref }}, // not to an external peer
		{", community 64512:7 no-export", func(a *Attributes) {
			a.Communities = append(a.Communities, community.Community{A: 64512, B: 7}, community.Community{A: 65535, B: 65281})
		}},
		{", large 4200000000:1:2", func(a *Attributes) {
			a.Communities = append(a.Communities, community.Community{Large: true, Global: 4200000000, A: 1, B: 2})
		}},
		{", extended LB:64512:250000 (2.000 Mbps)", func(a *Attributes) { a.Weight = 2 }},
		{" 64512 64512", func(a *Attributes) { a.Prepend = 2 }},
	}
	f := newFRR(t, frrConfig)
	plain := newRouter(t, "127.0.0.2", 64514, nodeASN)
	d := run(t, quiet)
	d.SyncPeers([]Peer{frrPeer("tor1", frrIPv4), plain.peer("plain", nodeASN)})
	round := 0
	for i := range kinds {
		for j := range i {
			round++
			var a Attributes
			kinds[j].set(&a)
			kinds[i].set(&a)
			var all Desired
			for k := range n {
				prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, byte(18 + round%2), byte(k / 250), byte(k % 250)}), 32)
				all.Routes = append(
					all.Routes,
					Route{Prefix: prefix, Peers: []string{"tor1"}, Attributes: a},
					Route{Prefix: prefix, Peers: []string{"plain"}},
				)
			}
			d.Sync("all", all)
			f.await(t, "all routes", func() bool { return f.routes() == n && plain.only(byte(18+round%2)) == n }, func() string {
				return fmt.Sprintf("FRR has %d, the other %d", f.routes(), plain.only(byte(18+round%2)))
			})
			path, words := "path 64512", kinds[j].words+kinds[i].words
			if i == len(kinds)-1 { // the path comes first
				path, words = path+kinds[i].words, kinds[j].words
			}
			for _, k := range []int{0, n / 2, n - 1} {
				prefix := fmt.Sprintf("198.%d.%d.%d/32", 18+round%2, k/250, k%250)
				f.says(t, "ipv4", prefix, path+" via 10.0.0.9"+words)
				plain.tells(t, prefix, "path 64512")
			}
		}
	}
}

// routes counts what FRR accepted from the node.
func (f *frr) routes() int {
	var summary struct {
		IPv4Unicast struct {
			Peers map[string]struct{ PfxRcd int }
		}
	}
	if err := json.Unmarshal([]byte(f.vtysh("bgpd", "show bgp summary json")), &summary); err != nil {
		return 0
	}
	return summary.IPv4Unicast.Peers["10.0.0.9"].PfxRcd
}

// only counts the router's prefixes if all are of this second byte.
func (r *router) only(second byte) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.routes {
		if p.Addr().As4()[1] != second {
			return -1
		}
	}
	return len(r.routes)
}
