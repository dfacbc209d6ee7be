package steer

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/berth-lb/berth/speaker/dataplane/steering"
	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

// tally adds up the packets that were counted while this process runs. The kernel's counters go
// with their Services, and a sum that falls would be taken for one that began again.
type tally struct {
	begun    atomic.Bool
	mu       sync.Mutex                // held while the kernel is read, for which only those wait who read too
	last     map[steering.Count]uint64 // guarded by mu; Packets of the last time, by the rest
	byReason map[decide.Reason]uint64  // guarded by mu
	of       *series                   // its packets are guarded by mu; nil: nobody wants them
}

// begin has what is in the kernel now not count: a process before this one did.
func (t *tally) begin(driver *steering.Driver) {
	if t.begun.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if counts, err := driver.Stats(); err == nil {
		t.last = packetsOf(counts)
		t.begun.Store(true)
	}
}

// read hands over the sums, brought up to date if there is a driver.
func (t *tally) read(driver *steering.Driver, sums func(byReason map[decide.Reason]uint64)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if driver != nil && t.begun.Load() {
		if counts, err := driver.Stats(); err == nil { // else it is closing, and the sums stay
			t.add(counts)
		}
	}
	sums(t.byReason)
}

// add needs the lock.
func (t *tally) add(counts []steering.Count) {
	now := packetsOf(counts)
	news := map[ofService]uint64{}
	if t.byReason == nil {
		t.byReason = map[decide.Reason]uint64{}
	}
	for c, n := range now {
		more := n
		if before := t.last[c]; before <= n { // else the counter began again
			more -= before
		}
		t.byReason[c.Reason] += more
		namespace, service := serviceOf(c.Service)
		news[ofService{namespace, service, c.Node, c.Reason}] += more
	}
	if t.last == nil {
		t.last = now
	} else {
		maps.Copy(t.last, now) // what cannot be read now is not new when it can
	}
	if t.of != nil {
		t.of.add(news, mostSeries)
	}
}

func packetsOf(counts []steering.Count) map[steering.Count]uint64 {
	packets := make(map[steering.Count]uint64, len(counts))
	for _, c := range counts {
		n := c.Packets
		c.Packets = 0
		packets[c] = n
	}
	return packets
}

// ofService are the labels of a series.
type ofService struct {
	namespace, service, target string
	reason                     decide.Reason
}

// series are packets of single Services, as many series as may be.
type series struct {
	packets map[ofService]uint64
	omitted int // how many more there would be
}

func newSeries() *series { return &series{packets: map[ofService]uint64{}} }

// add adds the news, one for each series that there is in the kernel. Series that there are no news
// of are gone. While there are more than fit, those with most news get in.
func (s *series) add(news map[ofService]uint64, most int) {
	maps.DeleteFunc(s.packets, func(of ofService, _ uint64) bool { _, there := news[of]; return !there })
	var others []ofService
	for of, n := range news {
		if _, in := s.packets[of]; in {
			s.packets[of] += n
		} else if n > 0 {
			others = append(others, of)
		}
	}
	slices.SortFunc(others, func(a, b ofService) int {
		return cmp.Or(
			cmp.Compare(news[b], news[a]), cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.service, b.service),
			cmp.Compare(a.target, b.target), cmp.Compare(a.reason, b.reason),
		)
	})
	fit := min(len(others), most-len(s.packets))
	for _, of := range others[:fit] {
		s.packets[of] = news[of]
	}
	s.omitted = len(others) - fit
}
