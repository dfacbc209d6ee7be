package dataplane

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/berth-lb/berth/internal/scheduler"
	"github.com/berth-lb/berth/speaker/dataplane/guard"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
	"github.com/berth-lb/berth/speaker/plan"
)

func TestDriver_addressOf(t *testing.T) {
	f := &Driver{own: map[ipvs.Frontend]owner{}, marked: map[string][]ipvs.Frontend{}}
	address := netip.MustParseAddr("192.0.2.1")
	by := ipvs.Marked(ipvs.Marks|1, address)
	some := []guard.Frontend{
		{Address: address, Port: 80, Protocol: 6, Mark: by.Mark},
		{Address: address, Port: 81, Protocol: 6},
	}
	f.note("a", some)
	f.note("b", some) // the Service went to another group
	f.note("a", nil)
	if got := f.addressOf(by); got != address {
		t.Errorf("the mark is of %s", got)
	}
	f.note("b", nil)
	if len(f.own)+len(f.marked) > 0 || f.addressOf(by).IsValid() {
		t.Errorf("something is left: %v %v", f.own, f.marked)
	}
}

// An error for a moment changes nothing: what is in the kernel goes on to forward.
func TestDriver_judge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules, err := guard.New(slog.New(slog.DiscardHandler), nil)
		if err != nil {
			t.Fatal(err)
		}
		d := &Driver{ipvs: ipvs.New(ipvs.Config{}), guard: rules, able: []string{"rr"}}
		expect := func(when string, can bool) {
			t.Helper()
			if able, _ := d.Abilities(); (len(able) > 0) != can {
				t.Errorf("%s: can forward by %v", when, able)
			}
		}
		judge := func(err error, wantAfter time.Duration, wantBegins bool) {
			t.Helper()
			if after, begins := d.judge(err); after != wantAfter || begins != wantBegins {
				t.Errorf("a failure begins: %v, and counts after %s", begins, after)
			}
		}
		expect("before it was tried", true)
		judge(ipvs.ErrNoIPVS, 0, true)
		expect("when it fails from the start", false)
		judge(nil, 0, false)
		expect("when it works", true)
		judge(ipvs.ErrNoIPVS, plan.FailureGrace, true)
		expect("when it fails for a moment", true)
		judge(ipvs.ErrNoIPVS, 0, false)
		<-time.After(plan.FailureGrace)
		expect("when that lasts", false)
		judge(nil, 0, false)
		expect("when it works again", true)
	})
}

func TestMerge(t *testing.T) {
	front := ipvs.Frontend{Address: netip.MustParseAddr("192.0.2.1"), Port: 80, Protocol: ipvs.TCP}
	server := func(last byte, weight, active uint32) ipvs.RealServerStatistics {
		return ipvs.RealServerStatistics{
			RealServer: ipvs.RealServer{Address: netip.AddrFrom4([4]byte{10, 0, 0, last}), Port: 8080, Weight: weight},
			Active:     active,
		}
	}
	by := func(f ipvs.Frontend, connections uint64, servers ...ipvs.RealServerStatistics) ipvs.FrontendStatistics {
		return ipvs.FrontendStatistics{
			Frontend:    f,
			Statistics:  ipvs.Statistics{Connections: connections, BytesOut: 10 * connections},
			RealServers: servers,
		}
	}
	mark, unknown := ipvs.Marked(ipvs.Marks|1, front.Address), ipvs.Marked(ipvs.Marks|2, front.Address)
	got := merge(
		[]ipvs.FrontendStatistics{
			by(mark, 2, server(1, 0, 1), server(2, 1, 1)),
			by(front, 3, server(1, 1, 5)),
			by(unknown, 9),
		},
		map[ipvs.Frontend]owner{mark: {"g", front}},
	)
	want := []ipvs.FrontendStatistics{by(front, 5, server(1, 1, 6), server(2, 1, 1))}
	if diff := cmp.Diff(
		want,
		got,
		cmpopts.IgnoreUnexported(ipvs.RealServer{}),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	); diff != "" {
		t.Error(diff)
	}
}

func TestDriver_ability(t *testing.T) {
	mode := "nftables"
	proxy := httptest.NewServer(
		http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(mode)) }),
	)
	defer proxy.Close()
	f := &Driver{proxyMode: proxy.URL, probe: func(scheduler string) error {
		if scheduler == "mh" {
			return ipvs.ErrNoScheduler
		}
		return nil
	}}
	able, lacking, yields := f.ability()
	if yields || len(able) != len(scheduler.Names())-1 || lacking != "no scheduler mh: "+ipvs.ErrNoScheduler.Error() {
		t.Errorf("able %v, lacking %q", able, lacking)
	}
	mode = "ipvs"
	if able, lacking, yields := f.ability(); !yields || len(able) > 0 || lacking == "" {
		t.Errorf("beside kube-proxy in mode ipvs: able %v, lacking %q", able, lacking)
	}
	f.proxyMode, f.probe = "", func(string) error { return ipvs.ErrNoIPVS }
	if able, lacking, yields := f.ability(); yields || len(able) > 0 || lacking != ipvs.ErrNoIPVS.Error() {
		t.Errorf("without IPVS: able %v, lacking %q", able, lacking)
	}
}
