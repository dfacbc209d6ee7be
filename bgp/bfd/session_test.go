package bfd

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// world is two sessions, or more, over links that lose and delay, in virtual time.
type world struct {
	random *rand.Rand
	now    time.Duration
	ends   [2]*end
	flying []flight
	loss   float64
	delay  time.Duration
	cut    [2]bool // what end i sends is lost
}

type end struct {
	s       *session
	frozen  bool
	events  []string
	refused []error
	sent    []time.Duration
}

type flight struct {
	at time.Duration
	to int
	p  packet
}

var epoch = time.Unix(1_000_000, 0)

func (w *world) clock() time.Time { return epoch.Add(w.now) }

func newWorld(seed uint64, a, b timers) *world {
	w := &world{random: rand.New(rand.NewPCG(seed, 0)), delay: time.Millisecond}
	for i, t := range []timers{a, b} {
		w.ends[i] = &end{s: newSession(w.clock(), t, Authentication{}, uint32(i+1), w.random.Float64)}
	}
	return w
}

// run lets time pass in steps of a millisecond.
func (w *world) run(d time.Duration) {
	for stop := w.now + d; w.now < stop; w.now += time.Millisecond {
		flying := w.flying
		w.flying = nil
		for _, f := range flying {
			if f.at > w.now || w.ends[f.to].frozen {
				w.flying = append(w.flying, f)
				continue
			}
			if err := w.ends[f.to].s.receive(w.clock(), f.p); err != nil {
				w.ends[f.to].refused = append(w.ends[f.to].refused, err)
			}
			w.carryOut(f.to)
		}
		for i, e := range w.ends {
			if !e.frozen && !w.clock().Before(e.s.next()) {
				e.s.tick(w.clock())
				w.carryOut(i)
			}
		}
	}
}

// reread is a packet of a session as it comes out of its bytes.
func reread(s *session, p packet) packet {
	q, err := parse(s.bytes(p))
	if err != nil {
		panic(err)
	}
	return q
}

func (w *world) carryOut(i int) {
	e := w.ends[i]
	out, changes := e.s.take()
	for _, p := range out {
		if !p.final {
			e.sent = append(e.sent, w.now)
		}
		if !w.cut[i] && w.random.Float64() >= w.loss {
			w.flying = append(
				w.flying,
				flight{w.now + time.Duration(w.random.Int64N(int64(w.delay)+1)), 1 - i, reread(e.s, p)},
			)
		}
	}
	for _, c := range changes {
		e.events = append(e.events, fmt.Sprintf("%s to %s: %s", c.from, c.to, c.diag))
	}
}

func (w *world) up(t *testing.T) {
	t.Helper()
	w.run(5 * time.Second)
	for i, e := range w.ends {
		if e.s.state != Up {
			t.Fatalf("end %d is %s: %v", i, e.s.state, e.events)
		}
	}
}

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func TestTwoEndsComeUpAndSendAtTheNegotiatedPaceWithJitter(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(seed, timers{ms(100), ms(100), 3}, timers{ms(250), ms(50), 5})
		w.up(t)
		a, b := w.ends[0], w.ends[1]
		if a.s.interval() != ms(100) || b.s.interval() != ms(250) || a.s.detection() != ms(1250) ||
			b.s.detection() != ms(300) {
			t.Fatalf(
				"intervals %s and %s, detection %s and %s",
				a.s.interval(),
				b.s.interval(),
				a.s.detection(),
				b.s.detection(),
			)
		}
		if a.s.polling || b.s.polling {
			t.Error("a poll sequence did not end")
		}
		a.sent, b.sent = nil, nil
		w.run(10 * time.Second)
		for i, e := range w.ends {
			for j := 1; j < len(e.sent); j++ {
				if gap := e.sent[j] - e.sent[j-1]; gap < e.s.interval()*3/4-ms(1) || gap > e.s.interval()+ms(1) {
					t.Errorf("end %d sends after %s, want 75 to 100 %% of %s", i, gap, e.s.interval())
				}
			}
		}
	}
}

func TestNothingIsSentFasterThanOnceASecondBeforeTheSessionIsUp(t *testing.T) {
	w := newWorld(1, timers{ms(50), ms(50), 3}, timers{ms(50), ms(50), 3})
	w.cut = [2]bool{true, true}
	w.run(20 * time.Second)
	if n := len(w.ends[0].sent); n < 20 || n > 28 {
		t.Errorf("%d packets in 20 s, want 20 to 27", n)
	}
}

func TestSilenceIsNoticedWithinTheDetectionTimeAndToldToTheOther(t *testing.T) {
	w := newWorld(3, timers{ms(100), ms(100), 3}, timers{ms(100), ms(100), 3})
	w.up(t)
	w.cut[1] = true // b is not heard any more; a is
	before := w.now
	for w.ends[0].s.state == Up && w.now < before+time.Second {
		w.run(time.Millisecond)
	}
	if took := w.now - before; took < ms(200) || took > ms(302) {
		t.Errorf("noticed after %s, want 200 to 300 ms", took)
	}
	// What a says now has no discriminator of b's, so that b believes it once a's packets of before
	// are a while ago, or notices their absence.
	w.run(ms(302))
	a, b := w.ends[0], w.ends[1]
	if last := a.events[len(a.events)-1]; last != "Up to Down: control detection time expired" {
		t.Errorf("a says %q", last)
	}
	if !slices.ContainsFunc(b.events, func(e string) bool { return strings.HasPrefix(e, "Up to Down: ") }) {
		t.Errorf("b says %q", b.events)
	}
	w.cut[1] = false
	w.up(t)
}

func TestAdminDownIsToldForADetectionTimeAndIsNoFailure(t *testing.T) {
	w := newWorld(4, timers{ms(100), ms(100), 3}, timers{ms(100), ms(100), 3})
	w.up(t)
	a, b := w.ends[0], w.ends[1]
	a.s.stop(w.clock())
	a.sent = nil
	w.run(ms(299))
	if n := len(a.sent); n < 3 || n > 5 || a.s.ended(w.clock()) {
		t.Errorf("%d packets within the detection time, ended %t", n, a.s.ended(w.clock()))
	}
	w.run(ms(2))
	if !a.s.ended(w.clock()) {
		t.Error("not ended after the detection time")
	}
	if b.s.state != Down || b.s.remoteState != AdminDown {
		t.Errorf("the other is %s, and takes us for %s", b.s.state, b.s.remoteState)
	}
}

func TestOtherTimersAreToldWithinTheSession(t *testing.T) {
	w := newWorld(5, timers{ms(100), ms(100), 3}, timers{ms(100), ms(100), 3})
	w.up(t)
	a, b := w.ends[0], w.ends[1]
	events := len(a.events) + len(b.events)
	w.cut[1] = true
	a.s.configure(w.clock(), timers{ms(400), ms(50), 4})
	w.run(ms(150))
	if a.s.interval() != ms(100) || a.s.detection() != ms(300) {
		t.Errorf(
			"before the other confirmed: sends every %s and waits %s, want 100 and 300 ms",
			a.s.interval(),
			a.s.detection(),
		)
	}
	w.cut[1] = false
	w.run(ms(300))
	if a.s.interval() != ms(400) || a.s.detection() != ms(300) || b.s.detection() != ms(1600) {
		t.Errorf(
			"sends every %s, waits %s, the other %s; want 400, 300 and 1600 ms",
			a.s.interval(),
			a.s.detection(),
			b.s.detection(),
		)
	}
	w.run(5 * time.Second)
	if n := len(a.events) + len(b.events); n != events {
		t.Errorf("the session fell: %v, %v", a.events, b.events)
	}
}

func TestAnEndThatWantsNoPacketsGetsNone(t *testing.T) {
	w := newWorld(6, timers{ms(100), ms(100), 3}, timers{ms(100), ms(100), 3})
	w.up(t)
	p := packet{state: Up, multiplier: 3, mine: 2, yours: 1, desiredTx: ms(100)}
	w.cut[1] = true
	a := w.ends[0]
	a.sent = nil
	for range 20 {
		_ = a.s.receive(w.clock(), p)
		w.run(ms(50))
	}
	if len(a.sent) > 1 {
		t.Errorf("%d packets to one that wants none", len(a.sent))
	}
}

// TestStrangerEndsNothing: who knows the addresses of a session, and not its discriminators, says
// that it is down, or that it has another end now.
func TestStrangerEndsNothing(t *testing.T) {
	for _, state := range []State{Down, AdminDown} {
		w := newWorld(7, timers{ms(100), ms(100), 3}, timers{ms(100), ms(100), 3})
		w.up(t)
		a := w.ends[0]
		events := len(a.events)
		for range 200 {
			if a.s.receive(
				w.clock(),
				packet{state: state, multiplier: 3, mine: 99, desiredTx: ms(10), requiredRx: ms(10)},
			) == nil {
				t.Fatalf("%s of a stranger counts", state)
			}
			w.run(ms(25))
		}
		if len(a.events) > events || a.s.remote != 2 {
			t.Errorf("%s of a stranger: %v, the other is %d", state, a.events[events:], a.s.remote)
		}
	}
}

// An end that begins again does not know our discriminator either. It is believed once the former
// one is silent, before the detection time is over.
func TestAnEndThatBeginsAgain(t *testing.T) {
	w := newWorld(8, timers{ms(100), ms(100), 3}, timers{ms(100), ms(100), 3})
	w.up(t)
	a, events := w.ends[0], len(w.ends[0].events)
	w.ends[1] = &end{s: newSession(w.clock(), timers{ms(100), ms(100), 3}, Authentication{}, 9, w.random.Float64)}
	w.run(5 * time.Second)
	if len(a.events) == events || a.s.state != Up || a.s.remote != 9 {
		t.Errorf("%v, %s with %d; want Down, and Up again with 9", a.events[events:], a.s.state, a.s.remote)
	}
}

// TestRandomHistories: whatever is lost, delayed or frozen, two ends that hear each other again
// come up again, and no end leaves Up while it hears the other in time.
func TestRandomHistories(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		any := func() timers {
			return timers{ms(20 + r.IntN(300)), ms(20 + r.IntN(300)), uint8(2 + r.IntN(4))}
		}
		w := newWorld(seed, any(), any())
		for range 6 {
			switch r.IntN(6) {
			case 0:
				w.cut[r.IntN(2)] = true
			case 1:
				w.loss = r.Float64()
			case 2:
				w.ends[r.IntN(2)].frozen = true
			case 3:
				w.ends[r.IntN(2)].s.configure(w.clock(), any())
			case 4:
				i := r.IntN(2) // another process
				w.ends[i].s = newSession(w.clock(), any(), Authentication{}, uint32(10+r.IntN(1000)), w.random.Float64)
			case 5:
				w.cut, w.loss = [2]bool{}, 0
			}
			w.run(ms(r.IntN(4000)))
		}
		w.cut, w.loss = [2]bool{}, 0
		for _, e := range w.ends {
			e.frozen = false
		}
		w.run(15 * time.Second)
		a, b := w.ends[0].s, w.ends[1].s
		if a.state != Up || b.state != Up || a.polling || b.polling || a.interval() != max(a.tx, b.rx) ||
			b.interval() != max(b.tx, a.rx) {
			t.Errorf(
				"seed %d: %s and %s, polling %t and %t, every %s and %s; configured %+v and %+v",
				seed,
				a.state,
				b.state,
				a.polling,
				b.polling,
				a.interval(),
				b.interval(),
				a.timers,
				b.timers,
			)
			continue
		}
		before := len(w.ends[0].events) + len(w.ends[1].events)
		w.run(10 * time.Second)
		if n := len(w.ends[0].events) + len(w.ends[1].events); n != before {
			t.Errorf("seed %d: it flaps: %v %v", seed, w.ends[0].events, w.ends[1].events)
		}
	}
}

func TestPacketsAreCheckedInTheOrderOfTheRFC(t *testing.T) {
	good := packet{
		state:      Up,
		multiplier: 3,
		mine:       7,
		yours:      8,
		desiredTx:  ms(100),
		requiredRx: ms(50),
		poll:       true,
		diag:       5,
	}
	b := good.append(nil)
	if got, err := parse(append(b, 1, 2, 3)); err != nil || got != good {
		t.Errorf("with bytes behind it: %+v, %v", got, err)
	}
	change := func(at int, to byte) []byte {
		c := append([]byte(nil), b...)
		c[at] = to
		return c
	}
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"short", b[:23], errLength},
		{"version 0", change(0, b[0]&0x1f), errVersion},
		{"a length beyond its end", change(3, 25), errLength},
		{"a length below the least", change(3, 23), errLength},
		{"multiplier 0", change(2, 0), errMultiplier},
		{"multipoint", change(1, b[1]|bitMultipoint), errMultipoint},
		{"no discriminator", change(7, 0), errDiscriminator},
		{"Up, and does not know ours", change(11, 0), errDiscriminator},
		{"authenticated", change(1, b[1]|bitAuthentication), errAuthentication},
	} {
		if _, err := parse(c.b); err != c.want { //nolint:errorlint // the very value
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func FuzzReceive(f *testing.F) {
	f.Add(
		packet{state: Down, multiplier: 3, mine: 7, desiredTx: time.Second, requiredRx: ms(50)}.append(nil),
		uint16(10),
	)
	f.Add(packet{state: Init, multiplier: 3, mine: 7, yours: 1, poll: true}.append(nil), uint16(1000))
	f.Fuzz(func(t *testing.T, b []byte, wait uint16) {
		now := epoch
		s := newSession(now, timers{ms(100), ms(100), 3}, Authentication{}, 1, func() float64 { return 0.5 })
		for len(b) >= packetLength {
			if p, err := parse(b[:packetLength]); err == nil {
				_ = s.receive(now, p)
			}
			b = b[packetLength:]
			now = now.Add(ms(int(wait)))
			s.tick(now)
			s.take()
			if s.next().Before(s.sent) || s.usedTx <= 0 || s.usedRx <= 0 {
				t.Fatalf("after %+v", s)
			}
		}
	})
}
