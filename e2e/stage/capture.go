//go:build linux

package stage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/arp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/e2e/lab"
)

// Sighting is one frame in which a host claims an address: an ARP reply, a gratuitous ARP of either
// kind, or a neighbor advertisement.
type Sighting struct {
	At         time.Time // when the switch received it, by its kernel
	Address    netip.Addr
	Host       string // from whose cable it came
	MAC        string // that it gives for the address
	Gratuitous bool   // nobody asked
}

// Capture is a record of all Sightings of some addresses on the rack segment, taken at the ports of
// its switch. The sender of every frame is known, and frames that are blocked between two hosts are
// seen, too. To provoke answers, the control plane's host keeps asking who has the addresses.
type Capture struct {
	stage     *Stage
	addresses []netip.Addr
	captured  map[netip.Addr]bool // the same, to look up
	every     time.Duration       // between two requests for an address
	stop      func() error

	mu    sync.Mutex // guards what is below
	seen  map[netip.Addr]Sightings
	asked map[netip.Addr][]time.Time
}

// askEvery is the time between two requests for an address, unless there are very many.
const askEvery = 20 * time.Millisecond

// StartCapture starts a Capture, which lasts until Stop or the end of ctx.
func (s *Stage) StartCapture(ctx context.Context, addresses ...netip.Addr) (*Capture, error) {
	return s.StartCaptureEvery(ctx, askEvery, addresses...)
}

// StartCaptureEvery starts a Capture that asks for each address once in the given time. A segment
// cannot carry 20 000 requests a second, so many addresses need more time. The requests are spread
// over it.
func (s *Stage) StartCaptureEvery(
	ctx context.Context,
	every time.Duration,
	addresses ...netip.Addr,
) (*Capture, error) {
	tap, err := s.openTap()
	if err != nil {
		return nil, fmt.Errorf("capture on the segment: %w", err)
	}
	asker, err := s.newAsker()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("capture on the segment: %w", err), tap.close())
	}
	c := &Capture{
		stage: s, addresses: addresses, captured: map[netip.Addr]bool{}, every: every,
		seen: map[netip.Addr]Sightings{}, asked: map[netip.Addr][]time.Time{},
	}
	for _, address := range addresses {
		c.captured[address] = true
	}
	ctx, cancel := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.ask(ctx, asker) })
	group.Go(func() error { return c.listen(ctx, tap) })
	group.Go(func() error { // ends listen
		<-ctx.Done()
		return tap.close()
	})
	c.stop = sync.OnceValue(func() error {
		cancel()
		return group.Wait()
	})
	return c, nil
}

// Forget forgets what was seen and asked before a moment: a capture of hours has no room for all.
func (c *Capture) Forget(before time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for address, all := range c.seen {
		c.seen[address] = slices.Clone(all.Since(before))
	}
	for address, all := range c.asked {
		first, _ := slices.BinarySearchFunc(all, before, time.Time.Compare)
		c.asked[address] = slices.Clone(all[first:])
	}
}

// Stop ends the capture. It fails if the capture missed frames.
func (c *Capture) Stop() error { return c.stop() }

func (c *Capture) ask(ctx context.Context, asker *asker) error {
	defer asker.close()
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	ticks := max(1, int(c.every/askEvery))
	share := (len(c.addresses) + ticks - 1) / ticks // of each tick
	next := 0
	for {
		for range share {
			address := c.addresses[next]
			next = (next + 1) % len(c.addresses)
			c.mu.Lock()
			c.asked[address] = append(c.asked[address], time.Now())
			c.mu.Unlock()
			if err := asker.ask(address); err != nil {
				return fmt.Errorf("ask who has %s: %w", address, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (c *Capture) listen(ctx context.Context, tap *tap) error {
	for {
		seen, ok, err := tap.next()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("capture on the segment: %w", err)
		case ok && c.captured[seen.Address]:
			c.note(seen)
		}
	}
}

// note inserts a sighting in order of time: frames that two processors received can arrive in the
// wrong order.
func (c *Capture) note(seen Sighting) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.seen[seen.Address]
	place := len(all)
	for place > 0 && all[place-1].At.After(seen.At) {
		place--
	}
	c.seen[seen.Address] = slices.Insert(all, place, seen)
}

// Of returns what was seen of an address.
func (c *Capture) Of(address netip.Addr) Sightings {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.seen[address])
}

// settled is how many requests in a row must have exactly one answer for a host to count as the
// owner.
const settled = 15

// Owner is the only host that answers for an address.
type Owner struct {
	Host, MAC string
	Until     time.Time // nobody else answered until then
}

// AwaitOwner waits until a single host, the same for all of the addresses, has answered the last 15
// requests for each of them, with its own hardware address. Answers before the given time do not
// count.
func (c *Capture) AwaitOwner(
	ctx context.Context,
	patience time.Duration,
	since time.Time,
	addresses ...netip.Addr,
) (Owner, error) {
	var owner Owner
	err := Eventually(ctx, patience, func(context.Context) error {
		owner = Owner{}
		for _, address := range addresses {
			o, err := c.owner(address, since)
			switch {
			case err != nil:
				return err
			case owner.Host != "" && owner.Host != o.Host:
				return fmt.Errorf("%s answers for %s, and %s for others of the Service", o.Host, address, owner.Host)
			case owner.Host == "" || o.Until.Before(owner.Until):
				owner = o
			}
		}
		return nil
	})
	if err != nil {
		for _, address := range addresses {
			err = fmt.Errorf("%w\n%s: %s", err, address, c.Of(address))
		}
	}
	return owner, err
}

// AwaitAnswers waits until the last 15 requests for each of the addresses were answered, by one
// host or several. Answers before the given time do not count.
func (c *Capture) AwaitAnswers(
	ctx context.Context,
	patience time.Duration,
	since time.Time,
	addresses ...netip.Addr,
) error {
	return Eventually(ctx, patience, func(context.Context) error {
		for _, address := range addresses {
			rounds, _, err := c.lastRounds(address, since)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(rounds, func(answers Sightings) bool { return len(answers) == 0 }) {
				return fmt.Errorf("nobody answers for %s", address)
			}
		}
		return nil
	})
}

// owner returns the host that alone answered the last requests for an address, with its own
// hardware address.
func (c *Capture) owner(address netip.Addr, since time.Time) (Owner, error) {
	owner, err := c.alone(address, since)
	if err != nil {
		return Owner{}, err
	}
	mac, err := net.ParseMAC(owner.MAC)
	if err != nil {
		return Owner{}, fmt.Errorf("%s answers for %s: %w", owner.Host, address, err)
	}
	if host := c.stage.HostOf(mac); host != owner.Host {
		return Owner{}, fmt.Errorf("%s answers for %s with %s, which is the hardware address of %q", owner.Host, address, owner.MAC, host)
	}
	return owner, nil
}

// alone returns the host that alone answered the last requests, always with the same hardware
// address.
func (c *Capture) alone(address netip.Addr, since time.Time) (Owner, error) {
	rounds, until, err := c.lastRounds(address, since)
	if err != nil {
		return Owner{}, err
	}
	owner := Owner{Until: until}
	for _, answers := range rounds {
		if hosts := answers.Hosts(); len(hosts) != 1 {
			return Owner{}, fmt.Errorf("[%s] answer for %s, want one host", strings.Join(hosts, " "), address)
		}
		now := answers[len(answers)-1]
		if owner.Host != "" && (now.Host != owner.Host || now.MAC != owner.MAC) {
			return Owner{}, fmt.Errorf(
				"%s with %s answers for %s, and %s with %s before", now.Host, now.MAC, address, owner.Host, owner.MAC,
			)
		}
		owner.Host, owner.MAC = now.Host, now.MAC
	}
	return owner, nil
}

// lastRounds returns what was seen between each of the last requests and the next one, and the time
// of the last of those.
func (c *Capture) lastRounds(address netip.Addr, since time.Time) ([]Sightings, time.Time, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.asked[address]
	if len(asked) <= settled || asked[len(asked)-settled-1].Before(since) {
		return nil, time.Time{}, fmt.Errorf("it was not asked often enough yet for %s", address)
	}
	asked = asked[len(asked)-settled-1:]
	var rounds []Sightings
	for i := range settled {
		rounds = append(rounds, slices.Clone(c.seen[address].Between(asked[i], asked[i+1])))
	}
	return rounds, asked[settled], nil
}

// Round is a request for an address, and what was seen until the next one.
type Round struct {
	Asked time.Time
	Seen  Sightings
}

// Answers returns the hosts that answered, sorted. Announcements do not count.
func (r Round) Answers() []string {
	return slices.DeleteFunc(slices.Clone(r.Seen), func(s Sighting) bool { return s.Gratuitous }).Hosts()
}

// Rounds returns the requests for an address at or after a moment that were followed by another.
func (c *Capture) Rounds(address netip.Addr, since time.Time) []Round {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.asked[address]
	first, _ := slices.BinarySearchFunc(asked, since, time.Time.Compare)
	var rounds []Round
	for i := first; i+1 < len(asked); i++ {
		rounds = append(rounds, Round{asked[i], slices.Clone(c.seen[address].Between(asked[i], asked[i+1]))})
	}
	return rounds
}

// Overlap is the longest time in which several hosts answered the same requests for an address.
type Overlap struct {
	From, To time.Time
	Hosts    []string
}

// Lasted returns how long it lasted: 0 for a single request, which two hosts may answer while the
// address moves.
func (o Overlap) Lasted() time.Duration { return o.To.Sub(o.From) }

// Overlap returns the longest Overlap of an address between two moments, and how many requests
// several hosts answered.
func (c *Capture) Overlap(address netip.Addr, from, to time.Time) (longest Overlap, requests int) {
	var now Overlap
	for _, round := range c.Rounds(address, from) {
		if !round.Asked.Before(to) {
			break
		}
		hosts := round.Answers()
		if len(hosts) < 2 {
			now = Overlap{}
			continue
		}
		requests++
		if now.Hosts == nil {
			now = Overlap{round.Asked, round.Asked, hosts}
		}
		now.To = round.Asked
		if longest.Hosts == nil || now.Lasted() > longest.Lasted() {
			longest = now
		}
	}
	return longest, requests
}

// Sightings are sorted by time.
type Sightings []Sighting

// Between returns the sightings at or after from and before to.
func (all Sightings) Between(from, to time.Time) Sightings {
	rest := all.Since(from)
	return rest[:len(rest)-len(rest.Since(to))]
}

// Since returns the sightings at or after t.
func (all Sightings) Since(t time.Time) Sightings {
	first, _ := slices.BinarySearchFunc(all, t, func(s Sighting, t time.Time) int { return s.At.Compare(t) })
	return all[first:]
}

// By returns the sightings of a host.
func (all Sightings) By(host string) Sightings {
	return slices.DeleteFunc(slices.Clone(all), func(s Sighting) bool { return s.Host != host })
}

// Hosts returns the hosts that were seen, sorted.
func (all Sightings) Hosts() []string {
	var hosts []string
	for _, s := range all {
		hosts = append(hosts, s.Host)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// String lists the hosts with the times since the first sighting, to a tenth of a second.
func (all Sightings) String() string {
	if len(all) == 0 {
		return "nobody answered"
	}
	const step = 100 * time.Millisecond
	var text strings.Builder
	var before []string
	end := all[len(all)-1].At
	for at := all[0].At; !at.After(end); at = at.Add(step) {
		hosts := all.Between(at, at.Add(step)).Hosts()
		if slices.Equal(hosts, before) && at != all[0].At {
			continue
		}
		fmt.Fprintf(&text, "from %.1f s [%s], ", at.Sub(all[0].At).Seconds(), strings.Join(hosts, " "))
		before = hosts
	}
	fmt.Fprintf(&text, "to %.1f s", end.Sub(all[0].At).Seconds())
	return text.String()
}

// asker asks on the segment who has an address, from the control plane's host, so that no client
// learns from the answers.
type asker struct {
	port *net.Interface
	arp  *arp.Client
	ndp  int // a socket
}

func (s *Stage) newAsker() (*asker, error) {
	a := &asker{}
	err := s.In(lab.ControlPlane, func() error {
		var err error
		if a.port, err = s.portOf(lab.ControlPlane); err != nil {
			return err
		}
		if a.arp, err = newARP(a.port); err != nil {
			return err
		}
		if a.ndp, err = newICMPv6(); err != nil {
			a.arp.Close()
		}
		return err
	})
	return a, err
}

func (a *asker) ask(address netip.Addr) error {
	if address.Is4() {
		return a.arp.Request(address)
	}
	return solicit(a.ndp, a.port, address)
}

func (a *asker) close() {
	a.arp.Close()
	unix.Close(a.ndp)
}
