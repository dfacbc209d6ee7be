package neighbor

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAnnouncerAnnouncesFourTimes(t *testing.T) {
	a := NewAnnouncer()
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }
	a.Begin(after(0), addr(1))
	a.Begin(after(50), addr(2))
	a.Begin(after(60), addr(3))
	a.End(addr(3))
	var got []string
	for ms := 0; ms <= 2000; ms += 10 {
		if n := a.Next(); n.IsZero() || n.After(after(ms)) {
			continue
		}
		for _, x := range a.Due(after(ms), 100) {
			got = append(got, fmt.Sprintf("%d %s", ms, x))
		}
	}
	want := []string{
		"0 192.0.2.1", "50 192.0.2.2", "100 192.0.2.1", "150 192.0.2.2",
		"300 192.0.2.1", "350 192.0.2.2", "1000 192.0.2.1", "1050 192.0.2.2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("announced (-want +got):\n%s", diff)
	}
	if len(a.latest) != 0 || !a.Next().IsZero() {
		t.Errorf("left behind: %d addresses, next %s", len(a.latest), a.Next())
	}
}

func TestAnnouncerDueLimit(t *testing.T) {
	a := NewAnnouncer()
	for i := range 1000 {
		a.Begin(after(0), netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	for i := range 4 {
		want := 256
		if i == 3 {
			want = 1000 - 3*256
		}
		if got := len(a.Due(after(0), 256)); got != want {
			t.Errorf("burst %d announces %d addresses, want %d", i, got, want)
		}
	}
}
