package neighbor

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestAddressTable(t *testing.T) {
	a := NewAddressTable(time.Now)
	expect := func(when string, knows, answers bool) {
		t.Helper()
		if a.Knows(held4) != knows || a.IsAnswered(held4) != answers ||
			a.Answering(held4) != (answers && a.Watchdog.running()) {
			t.Errorf("%s: known %t, answered %t, answering %t; want known %t, answered %t",
				when, a.Knows(held4), a.IsAnswered(held4), a.Answering(held4), knows, answers)
		}
	}
	expect("empty", false, false)
	a.SetWanted(held4, true)
	a.SetWanted(known4, true)
	expect("wanted", true, false)
	a.Answer(held4)
	expect("answered, and the watchdog has not been extended", true, true)
	a.Watchdog.Extend(time.Now().Add(time.Hour))
	expect("answered", true, true)
	wanted := a.Wanted()
	slices.SortFunc(wanted, netip.Addr.Compare)
	if want := []netip.Addr{held4, known4}; !slices.Equal(
		wanted,
		slices.SortedFunc(slices.Values(want), netip.Addr.Compare),
	) {
		t.Errorf("wanted are %v, want %v", wanted, want)
	}
	if !a.Silence(held4) || a.Silence(held4) {
		t.Error("it is to be silenced once")
	}
	expect("silenced", true, false)
	a.SetWanted(held4, false)
	expect("not wanted any longer", false, false)
	a.SetDecoys([]netip.Addr{held4}, true)
	expect("a decoy", true, false)
	a.SetDecoys([]netip.Addr{held4}, false)
	expect("not a decoy any longer", false, false)
}
