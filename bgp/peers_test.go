package bgp

import (
	"net/netip"
	"testing"
)

func TestOfPeersThatClashTheFirstIsUsed(t *testing.T) {
	peer := func(name, address string) Peer {
		return Peer{Name: name, Address: netip.MustParseAddr(address), LocalASN: 64512, RemoteASN: 64513}
	}
	usable, problems := checkPeers([]Peer{
		peer(
			"tor1",
			"10.0.0.1",
		), peer("tor1", "10.0.0.2"), peer("tor3", "10.0.0.1"), peer("tor4", "10.0.0.4"), {Name: "tor5"},
	})
	if len(usable) != 2 || usable[0].Name != "tor1" || usable[1].Name != "tor4" {
		t.Errorf("usable peers: %v", usable)
	}
	want := []string{
		"peer tor1 is configured twice",
		"peer tor3 has the address 10.0.0.1 of peer tor1",
		"peer tor5: address, spec.interface and spec.addressPrefix: write one of them, to say where the neighbor is",
	}
	for i, p := range problems {
		if i >= len(want) || p.text != want[i] {
			t.Errorf("problem %d: %s", i, p.text)
		}
	}
	if len(problems) != len(want) {
		t.Errorf("got %d problems, want %d", len(problems), len(want))
	}
}
