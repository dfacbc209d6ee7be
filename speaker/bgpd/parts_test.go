package bgpd

import (
	"bytes"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/berth-lb/berth/bgp"
)

func TestTrace(t *testing.T) {
	trace, err := newTrace()
	if err != nil {
		t.Fatal(err)
	}
	defer trace.Close()
	if router, _ := marked(trace, 0); router.IsValid() {
		t.Errorf("an empty trace names %s", router)
	}
	tracer := &tracer{trace: trace}
	for _, text := range []string{"fe80::1234:5678:9abc:def0%interface-of-15", "10.0.0.1", "2001:db8::1"} {
		tracer.mark(netip.MustParseAddr(text))
		if router, ago := marked(trace, 0); router.String() != text || ago < 0 || ago > time.Minute {
			t.Errorf("after %s the trace names %s, %s ago", text, router, ago)
		}
	}
	// Another router's message comes between the one that crashes the process and the crash.
	crashes := make(chan uint64)
	go func() {
		tracer.mark(netip.MustParseAddr("10.0.0.2"))
		crashes <- goroutine()
	}()
	by := <-crashes
	for range marks - 1 {
		tracer.mark(netip.MustParseAddr("10.0.0.3"))
	}
	if router, _ := marked(trace, by); by == 0 || router.String() != "10.0.0.2" {
		t.Errorf("goroutine %d took a message of %s last, want 10.0.0.2", by, router)
	}
	if router, _ := marked(trace, by+1e6); router.String() != "10.0.0.3" {
		t.Errorf("of a goroutine that took none the trace names %s, want the last of all", router)
	}
}

func TestCauseNamesGoroutine(t *testing.T) {
	c := &causeReader{to: io.Discard}
	_, _ = io.WriteString(c, "goroutine 3 says\npanic: oh no\n\ngoroutine 57 [running]:\nx()\n\ngoroutine 1 [select]:\n")
	if got := c.goroutine(); got != 57 {
		t.Errorf("goroutine %d crashed, want 57", got)
	}
}

func TestCause(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "",
		"{\"level\":\"INFO\"}\n": "",
		"panic: oh no\n\ngoroutine 1 [running]:\npanic: again\n": "panic: oh no",
		"log\nfatal error: concurrent map writes\n":              "fatal error: concurrent map writes",
		"SIGSEGV: segmentation violation\nPC=0x1\n":              "SIGSEGV: segmentation violation",
		"berth-bgp: the keeper is gone\n":                        "berth-bgp: the keeper is gone",
		"panic: " + strings.Repeat("x", 10000) + "\n":            "panic: " + strings.Repeat("x", 193),
		"it says panic: no\n":                                    "",
	} {
		var all bytes.Buffer
		c := &causeReader{to: &all}
		for chunk := range strings.SplitAfterSeq(text, " ") {
			if _, err := io.WriteString(c, chunk); err != nil {
				t.Fatal(err)
			}
		}
		if got := c.first(); got != want || all.String() != text {
			t.Errorf("the cause in %.40q is %.60q, want %.60q; passed on is %.40q", text, got, want, all.String())
		}
	}
}

func TestWants(t *testing.T) {
	w := newWants()
	var u unsaid
	route := bgp.Desired{Routes: []bgp.Route{{Prefix: netip.MustParsePrefix("192.0.2.1/32")}}}
	for i := range groupsPerOrder + 1 {
		w.Groups[strings.Repeat("x", i+1)] = route
	}
	u.everything(&w)
	u.questions = []question{{ID: 1, Kind: askWithdrawn}}
	said := func() (orders []order) {
		for o, more := u.next(&w); more; o, more = u.next(&w) {
			orders = append(orders, o)
		}
		return orders
	}
	orders := said()
	if len(orders) != 2 || orders[0].Identity == nil || len(orders[0].Groups) != groupsPerOrder ||
		orders[0].Phase != nil ||
		orders[0].Question != nil {
		t.Fatalf("%d orders, the first with %d groups", len(orders), len(orders[0].Groups))
	}
	if o := orders[1]; len(o.Groups) != 1 || o.Phase == nil || o.Question == nil || o.Peers != nil || o.Complete {
		t.Errorf("before there are peers, the last order is %+v", o)
	}
	w.Peers, u.peers = []bgp.Peer{}, true
	if orders := said(); len(orders) != 1 || orders[0].Peers == nil || !orders[0].Complete {
		t.Errorf("with peers it is %+v", orders)
	}
	if orders := said(); len(orders) > 0 {
		t.Errorf("then %+v", orders)
	}
}

func TestRemote_saysOnlyNews(t *testing.T) {
	r := NewRemote(RemoteConfig{})
	to := func(med uint32, peers ...string) bgp.Desired {
		route := bgp.Route{Prefix: netip.MustParsePrefix("192.0.2.1/32"), Peers: peers}
		route.MED = &med
		return bgp.Desired{Routes: []bgp.Route{route}}
	}
	for i, c := range []struct {
		desired bgp.Desired
		says    bool
	}{
		{bgp.Desired{}, false},
		{to(1), true},
		{to(1), false},
		{to(2), true},
		{to(2, "tor"), true},
		{to(2, "tor"), false},
		{bgp.Desired{}, true},
		{bgp.Desired{}, false},
	} {
		r.Sync("web", c.desired)
		o, says := r.next()
		if says != c.says || says && len(o.Groups["web"].Routes) != len(c.desired.Routes) {
			t.Errorf("step %d: it says %v, %+v, want %v", i, says, o, c.says)
		}
	}
}
