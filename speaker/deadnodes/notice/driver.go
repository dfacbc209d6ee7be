package notice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/speaker/deadnodes"
)

const listenAgain = 10 * time.Second

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
}

// Driver tells all nodes which of those that this one hears fell silent, and has the detector ask
// those that others call silent.
type Driver struct {
	Config
	port uint16
	keys atomic.Pointer[Keys]
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
	return &Driver{Config: c, port: uint16(port)}, nil
}

// SetKeys sets the keys that notices are signed with.
func (d *Driver) SetKeys(k Keys) { d.keys.Store(&k) }

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
	return d.read(conn)
}

// read has the detector act on notices until the socket is closed, or fails.
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
		notice, err := Open(b[:n], *keys)
		switch {
		case err != nil: // anybody can send these
		case notice.Kind == Silent:
			d.Dead.NoticeSilent(notice.Node)
		case notice.Kind == Serves:
			d.Dead.NoticeServes(notice.Node)
		}
	}
}

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
		var silent []string
		for _, s := range d.Dead.Silences() {
			silent = append(silent, s.Node)
		}
		now := time.Now()
		known.update(now, silent, d.Dead.Serves)
		send, next := known.take(now)
		d.send(conn, send)
		if timer.Stop(); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// send tells each node, except of itself. What is lost is told again.
func (d *Driver) send(conn *net.UDPConn, notices []Notice) {
	keys := d.keys.Load()
	if keys == nil || len(keys.Sign) == 0 || len(notices) == 0 {
		return
	}
	nodes, dead := d.Nodes(), d.Dead.Dead()
	for _, n := range notices {
		if len(n.Node) == 0 || len(n.Node) > maxNodeName {
			continue
		}
		b := n.Seal(keys.Sign)
		for node, addresses := range nodes {
			if node == d.Node || node == n.Node || dead[node] || len(addresses) == 0 {
				continue
			}
			_, _ = conn.WriteToUDPAddrPort(b, netip.AddrPortFrom(addresses[0], d.port))
		}
	}
}
