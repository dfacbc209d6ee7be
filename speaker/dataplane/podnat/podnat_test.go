package podnat

import (
	"net/netip"
	"testing"
)

func pods(n int) []netip.AddrPort {
	var all []netip.AddrPort
	for i := range n {
		all = append(all, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(i + 1)}), 8080))
	}
	return all
}

// Pods get equal shares; with affinity nearly so, and a Pod that comes takes slots from others
// only.
func TestFrontend_podOf(t *testing.T) {
	for _, affinity := range []bool{false, true} {
		for n := 2; n <= 16; n++ {
			f := Frontend{Pods: pods(n), Affinity: affinity}
			share := map[netip.AddrPort]int{}
			for slot := range Slots {
				share[f.podOf(slot)]++
			}
			least, most := Slots/n, (Slots+n-1)/n
			if affinity {
				least, most = least/4, most*3
			}
			for _, p := range f.Pods {
				if share[p] < least || share[p] > most {
					t.Errorf("affinity %t: of %d Pods %s has %d of %d slots, want %d to %d",
						affinity, n, p, share[p], Slots, least, most)
				}
			}
		}
	}
	before := Frontend{Pods: pods(4), Affinity: true}
	after := Frontend{Pods: pods(5), Affinity: true}
	for slot := range Slots {
		if is := after.podOf(slot); is != before.podOf(slot) && is != after.Pods[4] {
			t.Errorf("slot %d moved to %s, which was there before", slot, is)
		}
	}
}
