package trace

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"
)

var (
	web   = netip.MustParseAddr("192.0.2.1")
	other = netip.MustParseAddr("2001:db8::2")
	start = time.Date(2026, 11, 29, 4, 0, 0, 0, time.UTC)
)

func question(n int) Entry {
	return Entry{
		Time: start.Add(time.Duration(n)), What: Answered, Interface: "eth0", Address: web,
		From: netip.MustParseAddr("192.0.2.9"), MAC: MAC{2, 0, 0, 0, 0, 9},
	}
}

// A Log is as large at first as it ever is, but for its texts.
func TestBounds(t *testing.T) {
	if size := 2 * perRing * unsafe.Sizeof(Entry{}); size > 600_000 {
		t.Errorf("the rings take %d bytes", size)
	}
	l := New()
	for i := range 3 * perRing {
		l.Question(question(i))
	}
	l.Event(Entry{Time: start, What: "failure", Detail: strings.Repeat("ä", mostText)})
	all := l.Read(Query{})
	if len(all) != perRing+1 || cap(l.questions.entries) != perRing {
		t.Fatalf("it has %d entries, of %d", len(all), cap(l.questions.entries))
	}
	if e := all[0]; len(e.Detail) != mostText {
		t.Errorf("a text of %d bytes is kept", len(e.Detail))
	}
	for i, e := range all[1:] {
		if want := question(2*perRing + i); e != want {
			t.Fatalf("entry %d is %+v, not %+v", i, e, want)
		}
	}
}

// Questions come by the thousand, in the process that must not be late.
func TestRecordingDoesNotAllocate(t *testing.T) {
	l := New()
	e := question(1)
	if n := testing.AllocsPerRun(3*perRing, func() { l.Question(e) }); n != 0 {
		t.Errorf("recording a question allocates %v times", n)
	}
}

func BenchmarkQuestion(b *testing.B) {
	l := New()
	e := question(1)
	b.ReportAllocs()
	for b.Loop() {
		l.Question(e)
	}
}

func TestQuery(t *testing.T) {
	l := New()
	for i := range 5 {
		l.Question(question(i))
	}
	l.Event(Entry{Time: start.Add(2), What: "address gained", Address: other})
	l.Event(Entry{Time: start.Add(2), What: "peer up", Node: "n2"})
	for _, c := range []struct {
		q    Query
		want string
	}{
		{Query{}, "0 answered, 1 answered, 2 answered, 2 address gained, 2 peer up, 3 answered, 4 answered"},
		{Query{Last: 1}, "2 peer up, 4 answered"},
		{Query{Addresses: []netip.Addr{other}}, "2 address gained, 2 peer up"},
		{Query{Addresses: []netip.Addr{web}, Last: 2}, "2 peer up, 3 answered, 4 answered"},
	} {
		var got []string
		for _, e := range l.Read(c.q) {
			got = append(got, fmt.Sprintf("%d %s", e.Time.Sub(start), e.What))
		}
		if text := strings.Join(got, ", "); text != c.want {
			t.Errorf("%+v: %s\nnot %s", c.q, text, c.want)
		}
	}
	var none *Log
	none.Question(question(1))
	none.Event(question(1))
	none.Sessions(nil)
}

// A session is recorded when it is not as it was.
func TestSessions(t *testing.T) {
	l := New()
	router := netip.MustParseAddr("192.0.2.254")
	at := func(n int, detail string) []Entry {
		return []Entry{{Time: start.Add(time.Duration(n)), What: Session, Node: "tor", From: router, Detail: detail}}
	}
	l.Sessions(at(1, "idle"))
	l.Sessions(at(2, "idle"))
	l.Sessions(at(3, "established"))
	l.Sessions(nil) // deleted
	l.Sessions(at(4, "established"))
	var got []string
	for _, e := range l.Read(Query{}) {
		got = append(got, fmt.Sprintf("%d %s", e.Time.Sub(start), e.Detail))
	}
	if want := []string{"1 idle", "3 established", "4 established"}; !slices.Equal(got, want) {
		t.Errorf("got %q, not %q", got, want)
	}
}

// Who asks gets the entries of all processes of the pod.
func TestSocket(t *testing.T) {
	folder := t.TempDir()
	if _, err := Ask(t.Context(), folder, Query{}); err == nil || !strings.Contains(err.Error(), "no process") {
		t.Errorf("without a socket: %v", err)
	}
	event := Entry{Time: start.Add(7), What: Session, Node: "tor", Detail: "established"}
	for process, e := range map[string]Entry{"heart": question(8), "speaker": event} {
		l := New()
		l.Question(e)
		at, err := ListenBeside(t.Context(), filepath.Join(folder, "x.sock"), process)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); l.Serve(t.Context(), at, slog.New(slog.DiscardHandler)) }()
		t.Cleanup(func() { _ = at.Close(); <-done })
	}
	got, err := Ask(t.Context(), folder, Query{Addresses: []netip.Addr{web}})
	if err != nil || !slices.Equal(got, []Entry{event, question(8)}) {
		t.Errorf("got %+v, %v", got, err)
	}
}
