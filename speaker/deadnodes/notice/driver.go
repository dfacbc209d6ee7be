package notice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/speaker/deadnodes"
)

const (
	listenAgain = time.Second
	// reviewEvery is how often it is looked who is to watch this node.
	reviewEvery = time.Second
	// hearsWithin is how long a speaker takes to hear the nodes on its segments.
	hearsWithin = 3 * time.Second
	mostUnread  = 256
	// leaveAfter is how often a node asks that is not to until it is told so: by then it knows that
	// this one serves, and has told others if they thought that it does not.
	leaveAfter = 10
)

// Config of a Driver.
type Config struct {
	Logger *slog.Logger
	// Node is the name of this node.
	Node string
	// Listen is a UDP address as host:port or :port. All nodes are told at that port.
	Listen string
	// Nodes returns the addresses of all nodes, Addresses those of one; none if there is no such node.
	Nodes     func() map[string][]netip.Addr
	Addresses func(node string) []netip.Addr
	Dead      *deadnodes.Detector
	// Serves reports whether this node has what others count on. Then it is watched.
	Serves func() bool
}

// Driver tells all nodes which of those that this one hears, or watches, fell silent, and has the
// detector ask those that others call silent.
type Driver struct {
	Config
	port     uint16
	keys     atomic.Pointer[Keys]
	ready    atomic.Bool
	received chan Notice  // for watch
	heard    atomic.Int64 // how many datagrams came from others
	back     async.Signal // this node serves, perhaps after others thought that it does not
	others   chan string  // for tell: nodes that serve, perhaps since a moment ago
}

// New returns a Driver without keys, which tells and believes nothing.
func New(c Config) (*Driver, error) {
	_, text, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for notices at %q: %w", c.Listen, err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return nil, fmt.Errorf("listen for notices at %q: the port must be a number from 1 to 65535", c.Listen)
	}
	return &Driver{
		Config: c, port: uint16(port), received: make(chan Notice, mostUnread), back: async.NewSignal(),
		others: make(chan string, mostUnread),
	}, nil
}

// SetKeys sets the keys that notices are signed with.
func (d *Driver) SetKeys(k Keys) { d.keys.Store(&k) }

// SetReady says whether the speaker of this node has done what a start needs.
func (d *Driver) SetReady(ready bool) { d.ready.Store(ready) }

// Run tells and listens until the context ends. While the port is another program's it tries again.
func (d *Driver) Run(ctx context.Context) error {
	for before := ""; ctx.Err() == nil; {
		err := d.serve(ctx)
		if ctx.Err() == nil && err != nil && err.Error() != before {
			before = err.Error()
			d.Logger.Warn("this node is not told of dead nodes that it does not hear; tries again", "error", err)
		}
		_ = async.Sleep(ctx, listenAgain)
	}
	return nil
}

func (d *Driver) serve(ctx context.Context) error {
	var listen net.ListenConfig
	socket, err := listen.ListenPacket(ctx, "udp", d.Listen)
	if err != nil {
		return err //nolint:wrapcheck // it says what and where
	}
	conn, ok := socket.(*net.UDPConn)
	if !ok {
		return errors.Join(errors.New("not a UDP socket"), socket.Close())
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	// The last notices are sent after that.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var telling sync.WaitGroup
	defer telling.Wait()
	defer cancel()
	telling.Go(func() { d.tell(ctx, conn) })
	telling.Go(func() { d.watch(ctx, conn) })
	return d.read(conn)
}

// read has the detector act on notices until the socket fails, or nothing is to be read any more.
func (d *Driver) read(conn *net.UDPConn) error {
	var b [mostBytes + 1]byte // what is longer is cut, and refused
	for {
		n, _, err := conn.ReadFromUDPAddrPort(b[:])
		if err != nil {
			return err //nolint:wrapcheck // it says what
		}
		keys := d.keys.Load()
		if keys == nil {
			continue
		}
		notice, err := Open(b[:n], d.Node, *keys)
		if err != nil { // anybody can send these
			continue
		}
		d.heard.Add(1)
		switch notice.Kind {
		case Silent:
			d.Dead.NoticeSilent(notice.Node)
		case Serves:
			d.Dead.NoticeServes(notice.Node)
			select {
			case d.others <- notice.Node:
			default: // it says so again
			}
		default:
			if notice.Kind == Ask && d.serves() {
				d.sendTo(conn, Notice{Kind: Answer, Number: notice.Number, Node: d.Node}, notice.Node)
			}
			select {
			case d.received <- notice:
			default: // others follow
			}
		}
	}
}

func (d *Driver) serves() bool { return d.ready.Load() && d.Serves() }

// tell tells others until the context ends.
func (d *Driver) tell(ctx context.Context, conn *net.UDPConn) {
	known, met := ledger{}, greeted{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-d.Dead.NewsChanged():
		case <-d.back:
			known.serves(d.Node, time.Now())
		case node := <-d.others:
			for _, n := range met.greet(known, node, time.Now()) {
				d.sendTo(conn, n, node)
			}
			continue
		}
		now := time.Now()
		known.update(now, d.Dead.News(), d.Dead.Serves)
		send, next := known.take(now)
		d.send(conn, send)
		if timer.Stop(); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// send tells each node, except of itself. What is lost is told again.
func (d *Driver) send(conn *net.UDPConn, notices []Notice) {
	if len(notices) == 0 {
		return
	}
	nodes, dead := d.Nodes(), d.Dead.Dead()
	for _, n := range notices {
		for node := range nodes {
			if node != d.Node && node != n.Node && !dead[node] {
				d.sendTo(conn, n, node)
			}
		}
	}
}

// sendTo sends a notice to a node, if it can be signed, at the first of its addresses that the
// socket is for. Nobody counts on a single datagram.
func (d *Driver) sendTo(conn *net.UDPConn, n Notice, node string) {
	keys := d.keys.Load()
	if keys == nil || len(keys.Sign) == 0 || len(n.Node) == 0 || len(n.Node) > maxNodeName {
		return
	}
	b := n.Seal(node, keys.Sign)
	for _, address := range d.Addresses(node) {
		if _, err := conn.WriteToUDPAddrPort(b, netip.AddrPortFrom(address, d.port)); err == nil {
			return
		}
	}
}

// watch asks the nodes that want to be watched, and has others watch this one, until the context
// ends.
func (d *Driver) watch(ctx context.Context, conn *net.UDPConn) {
	w := watch{
		driver: d, conn: conn, wards: newWards(rand.Uint64()), watchers: newWatchers(d.Node),
		strangers: map[string]int{}, begun: time.Now(),
	}
	defer w.end()
	ask, review := time.NewTicker(askEvery), time.NewTicker(reviewEvery)
	defer ask.Stop()
	defer review.Stop()
	for {
		tick := ask.C
		if len(w.wards.byNode)+len(w.watchers.chosen) == 0 {
			tick = nil
		}
		select {
		case <-ctx.Done():
			return
		case n := <-d.received:
			w.take(n, time.Now())
		case <-tick:
			w.ask()
		case <-review.C:
			w.review(time.Now())
		}
	}
}

// watch is what a Driver knows of wards and watchers while it has a socket.
type watch struct {
	driver    *Driver
	conn      *net.UDPConn
	wards     *wards
	watchers  *watchers
	strangers map[string]int // how often nodes asked that are not to, since they were told so
	begun     time.Time
	heard     int64 // datagrams when wards were last asked
	deaf      int   // how often they were, and nothing came since
	serves    bool  // whether this node did, when that was last reviewed
}

// take acts on a notice of another node about itself.
func (w *watch) take(n Notice, now time.Time) {
	switch n.Kind {
	case Watch:
		w.wards.invite(n.Node, now)
	case Answer:
		if w.wards.answer(n.Node, n.Number) {
			w.driver.Dead.Ward(n.Node, true)
		}
	case Leave:
		if w.wards.byNode[n.Node] != nil {
			delete(w.wards.byNode, n.Node)
			w.driver.Dead.WardLeft(n.Node)
		}
	case Ask:
		if w.watchers.ask(n.Node, now) {
			delete(w.strangers, n.Node)
		} else {
			w.strangers[n.Node]++
		}
	case Ends:
		w.watchers.end(n.Node, now)
	}
}

// ask asks wards, and tells the detector which of them do not answer. If nothing comes from
// anybody, it may be this node that others do not hear.
func (w *watch) ask() {
	d, heard := w.driver, w.driver.heard.Load()
	wasDeaf := w.deaf > missedAtMost
	if w.deaf++; heard != w.heard {
		w.heard, w.deaf = heard, 0
	}
	deaf := w.deaf > missedAtMost
	reached := wasDeaf || w.wards.known() || w.watchers.watched(time.Now()) // before
	if d.Dead.CutOff(deaf && reached) && !deaf {
		d.back.Notify()
	}
	for _, node := range w.wards.ask(wasDeaf && !deaf) {
		d.sendTo(w.conn, Notice{Kind: Ask, Number: w.wards.number, Node: d.Node}, node)
	}
	for node, one := range w.wards.byNode {
		if one.silent() {
			d.Dead.Ward(node, false)
		}
	}
}

// review has nodes beyond this one's segments watch it, while it serves. A cluster on one segment
// has none.
func (w *watch) review(now time.Time) {
	d, served := w.driver, w.serves
	for _, node := range w.wards.expire(now) {
		d.Dead.WardLeft(node)
	}
	if len(w.wards.byNode)+len(w.watchers.chosen) == 0 {
		d.Dead.CutOff(false)
	}
	if w.serves = d.serves(); !w.serves {
		return
	}
	if !served {
		d.back.Notify()
	}
	if now.Sub(w.begun) < hearsWithin {
		return
	}
	dead, may := d.Dead.Dead(), map[string]bool{}
	for node, addresses := range d.Nodes() {
		if node != d.Node && len(addresses) > 0 && !dead[node] && !d.Dead.Hears(node) {
			may[node] = true
		}
	}
	for _, node := range w.watchers.invite(may, now) {
		delete(w.strangers, node) // it may have watched a process before this one
		d.sendTo(w.conn, Notice{Kind: Watch, Node: d.Node}, node)
	}
	for node, asked := range w.strangers {
		if asked >= leaveAfter {
			d.sendTo(w.conn, Notice{Kind: Leave, Node: d.Node}, node)
			delete(w.strangers, node)
		}
	}
}

// end ends the watch, of which the next one knows nothing.
func (w *watch) end() {
	for node := range w.wards.byNode {
		w.driver.Dead.WardLeft(node)
		w.driver.sendTo(w.conn, Notice{Kind: Ends, Node: w.driver.Node}, node)
	}
	w.driver.Dead.CutOff(false)
}
