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
	listenAgain = 10 * time.Second
	// reviewEvery is how often it is looked who is to watch this node.
	reviewEvery = time.Second
	// hearsWithin is how long a speaker takes to hear the nodes on its segments.
	hearsWithin = 3 * time.Second
	mostUnread  = 256
)

// Config of a Driver.
type Config struct {
	Logger *slog.Logger
	// Node is the name of this node.
	Node string
	// Listen is a UDP address as host:port or :port. All nodes are told at that port.
	Listen string
	// Nodes returns the addresses of all nodes.
	Nodes func() map[string][]netip.Addr
	Dead  *deadnodes.Detector
	// Serves reports whether this node has what others count on. Then it is watched.
	Serves func() bool
}

// Driver tells all nodes which of those that this one hears, or watches, fell silent, and has the
// detector ask those that others call silent.
type Driver struct {
	Config
	port  uint16
	keys  atomic.Pointer[Keys]
	ready atomic.Bool
	came  chan message // for watch
}

// message is a notice, and where it came from.
type message struct {
	Notice
	from netip.AddrPort
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
	return &Driver{Config: c, port: uint16(port), came: make(chan message, mostUnread)}, nil
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
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var telling sync.WaitGroup
	defer telling.Wait()
	defer cancel()
	telling.Go(func() { d.tell(ctx, conn) })
	telling.Go(func() { d.watch(ctx, conn) })
	return d.read(conn)
}

// read has the detector act on notices until the socket is closed, or fails.
func (d *Driver) read(conn *net.UDPConn) error {
	var b [mostBytes + 1]byte // what is longer is cut, and refused
	for {
		n, from, err := conn.ReadFromUDPAddrPort(b[:])
		if err != nil {
			return err //nolint:wrapcheck // it says what
		}
		keys := d.keys.Load()
		if keys == nil {
			continue
		}
		notice, err := Open(b[:n], d.Node, *keys)
		switch {
		case err != nil: // anybody can send these
		case notice.Kind == Silent:
			d.Dead.NoticeSilent(notice.Node)
		case notice.Kind == Serves:
			d.Dead.NoticeServes(notice.Node)
		case notice.Node == d.Node:
		default:
			if notice.Kind == Ask && d.serves() {
				d.sendTo(conn, Notice{Kind: Answer, Number: notice.Number, Node: d.Node}, notice.Node, from)
			}
			select {
			case d.came <- message{notice, from}:
			default: // others follow
			}
		}
	}
}

func (d *Driver) serves() bool { return d.ready.Load() && d.Serves() }

// tell tells others until the context ends.
func (d *Driver) tell(ctx context.Context, conn *net.UDPConn) {
	known := ledger{}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-d.Dead.NewsChanged():
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
		for node, addresses := range nodes {
			if node != d.Node && node != n.Node && !dead[node] && len(addresses) > 0 {
				d.sendTo(conn, n, node, netip.AddrPortFrom(addresses[0], d.port))
			}
		}
	}
}

// sendTo sends a notice to a node, if it can be signed. Nobody counts on a single datagram.
func (d *Driver) sendTo(conn *net.UDPConn, n Notice, node string, to netip.AddrPort) {
	keys := d.keys.Load()
	if keys != nil && len(keys.Sign) > 0 && len(n.Node) > 0 && len(n.Node) <= maxNodeName {
		_, _ = conn.WriteToUDPAddrPort(n.Seal(node, keys.Sign), to)
	}
}

// watch asks the nodes that want to be watched, and has others watch this one, until the context
// ends.
func (d *Driver) watch(ctx context.Context, conn *net.UDPConn) {
	begun := time.Now()
	mine, others := newWards(rand.Uint64(), begun), newWatchers(d.Node)
	where := map[string]netip.AddrPort{} // of wards
	var reviewed time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-d.came:
			switch now := time.Now(); m.Kind {
			case Watch:
				if mine.invite(m.Node, now) {
					where[m.Node] = m.from
					timer.Reset(0)
				}
			case Ask:
				others.ask(m.Node, now)
			case Answer:
				if mine.answer(m.Node, m.Number, now) {
					d.Dead.WardServes(m.Node)
				}
			}
		case now := <-timer.C:
			next := reviewEvery
			if len(mine.byNode) > 0 {
				next = askEvery
				d.round(conn, mine, where, now)
			}
			timer.Reset(next)
			if now.Sub(reviewed) >= reviewEvery && now.Sub(begun) >= hearsWithin {
				reviewed = now
				d.invite(conn, others, now)
			}
		}
	}
}

// round asks wards, and has the detector ask those that do not answer any more.
func (d *Driver) round(conn *net.UDPConn, mine *wards, where map[string]netip.AddrPort, now time.Time) {
	ask, missed, left := mine.round(now)
	for _, node := range ask {
		d.sendTo(conn, Notice{Kind: Ask, Number: mine.number, Node: d.Node}, node, where[node])
	}
	for _, node := range missed {
		d.Dead.WardSilent(node)
	}
	for _, node := range left {
		delete(where, node)
		d.Dead.WardLeft(node)
	}
}

// invite has nodes beyond this one's segments watch it. A cluster on one segment has none.
func (d *Driver) invite(conn *net.UDPConn, others *watchers, now time.Time) {
	if !d.serves() {
		return
	}
	nodes, dead := d.Nodes(), d.Dead.Dead()
	var may []string
	for node, addresses := range nodes {
		if node != d.Node && len(addresses) > 0 && !dead[node] && !d.Dead.Hears(node) {
			may = append(may, node)
		}
	}
	for _, node := range others.invite(may, now) {
		d.sendTo(conn, Notice{Kind: Watch, Node: d.Node}, node, netip.AddrPortFrom(nodes[node][0], d.port))
	}
}
