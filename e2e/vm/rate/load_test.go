//go:build bench || qemu

package rate_test

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/e2e/vm/cluster"
)

// Ports of the pods and of Services alike. The pods' programs have the last, this process the
// others: bare system calls on both sides leave most of the time to what is measured.
const (
	connectPort  = 9001
	bulkPort     = 9002
	datagramPort = 9003
	linePort     = 7000
)

// clients are threads that connect, or ask, at once.
const clients = 4

// load is what clients do to an address: n times, within so many seconds.
type load struct {
	name, unit string
	each       bool // n is at most the number of packets
	run        func(address string, from *ports) (n int, seconds float64, err error)
}

var loads = []load{
	{
		name: "connections",
		unit: "conns/s",
		each: true,
		run: func(a string, from *ports) (int, float64, error) {
			return inParallel(clients, from, to(a, connectPort), connect)
		},
	},
	{
		name: "datagrams",
		unit: "requests/s",
		each: true,
		run: func(a string, from *ports) (int, float64, error) {
			return inParallel(clients, from, to(a, datagramPort), ask)
		},
	},
	{
		name: "bulk",
		unit: "B/s",
		run:  func(a string, from *ports) (int, float64, error) { return inParallel(1, from, to(a, bulkPort), send) },
	},
}

// ports are the client's for one path, used in turn. A path has its own, and enough of them: data
// planes remember a client's port for up to 5 minutes, and IPVS takes for an answer of its own what
// a pod sends there, whomever the client has asked since.
type ports struct {
	first int
	used  atomic.Int64
}

const (
	portsOfAPath = 12_000
	maxPaths     = 5
)

// nextPorts are for one more path.
func (c comparison) nextPorts() *ports { return &ports{first: 1024 + len(c.paths)*portsOfAPath} }

// keepPorts keeps the client's other programs from using them.
func keepPorts(b *testing.B) {
	b.Helper()
	first := 1024 + maxPaths*portsOfAPath
	cluster.Run(
		b, cluster.Client, "sysctl", "-qw", fmt.Sprintf("net.ipv4.ip_local_port_range=%d %d", first, 65535),
	)
}

func (p *ports) next() int { return p.first + int(p.used.Add(1)%portsOfAPath) }

func to(address string, port int) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Addr: netip.MustParseAddr(address).As4(), Port: port}
}

// inParallel has workers in the client's namespace do something, once at least and until the time
// is over, and adds up what they did.
func inParallel(
	workers int,
	from *ports,
	to unix.Sockaddr,
	work func(*ports, unix.Sockaddr, func() bool) (int, error),
) (int, float64, error) {
	var (
		group  errgroup.Group
		ready  sync.WaitGroup
		start  = make(chan struct{})
		end    time.Time
		number atomic.Int64
	)
	ready.Add(workers)
	for range workers {
		group.Go(func() error {
			n, err := cluster.In(cluster.Client, func() (int, error) {
				ready.Done()
				<-start
				return work(from, to, func() bool { return time.Now().Before(end) })
			})
			number.Add(int64(n))
			return err
		})
	}
	ready.Wait()
	begun := time.Now()
	end = begun.Add(length)
	close(start)
	err := group.Wait()
	return int(number.Load()), time.Since(begun).Seconds(), err
}

// connect makes one connection after the other, which the pod closes. It resets its end: nothing
// waits for late packets.
func connect(from *ports, to unix.Sockaddr, more func() bool) (n int, err error) {
	for first := true; first || more(); n++ {
		first = false
		if err := withSocket(from, unix.SOCK_STREAM, func(fd int) error {
			if err := errors.Join(
				unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}), unix.Connect(fd, to),
			); err != nil {
				return err
			}
			_, err := unix.Read(fd, make([]byte, 1))
			return err
		}); err != nil {
			return n, err
		}
	}
	return n, nil
}

// ask sends datagrams and waits for the answer to each.
func ask(from *ports, to unix.Sockaddr, more func() bool) (n int, err error) {
	return n, withSocket(from, unix.SOCK_DGRAM, func(fd int) error {
		if err := errors.Join(
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}), unix.Connect(fd, to),
		); err != nil {
			return err
		}
		buffer := make([]byte, 64)
		for first := true; first || more(); n++ {
			first = false
			if _, err := unix.Write(fd, buffer); err != nil {
				return err
			}
			_, err := unix.Read(fd, buffer)
			for errors.Is(err, unix.EINTR) { // reads with a timeout are not restarted
				_, err = unix.Read(fd, buffer)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// send sends bytes on one connection, all of which the pod has read in the end.
func send(from *ports, to unix.Sockaddr, more func() bool) (n int, err error) {
	return n, withSocket(from, unix.SOCK_STREAM, func(fd int) error {
		if err := unix.Connect(fd, to); err != nil {
			return err
		}
		buffer := make([]byte, 256<<10)
		for first := true; first || more(); first = false {
			wrote, err := unix.Write(fd, buffer)
			if err != nil {
				return err
			}
			n += wrote
		}
		if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
			return err
		}
		_, err := unix.Read(fd, buffer)
		return err
	})
}

func withSocket(from *ports, kind int, do func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err = bind(fd, from); err == nil {
		err = do(fd)
	}
	return errors.Join(err, unix.Close(fd))
}

// bind takes the next port that is free: a connection of before may wait for late packets on one,
// or for an answer.
func bind(fd int, from *ports) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	err := error(unix.EADDRINUSE)
	for tried := 0; tried < portsOfAPath && errors.Is(err, unix.EADDRINUSE); tried++ {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: from.next()})
	}
	return err
}

// serve has a pod answer until the benchmark ends.
func serve(b *testing.B, pod string) {
	b.Helper()
	listen := func(kind, port int) int {
		fd, err := cluster.In(pod, func() (int, error) {
			fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return 0, err
			}
			if err = unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err == nil && kind == unix.SOCK_STREAM {
				err = unix.Listen(fd, 1024)
			}
			return fd, err
		})
		if err != nil {
			b.Fatal(err)
		}
		return fd
	}
	var running sync.WaitGroup
	connects, bulk, datagrams := listen(
		unix.SOCK_STREAM,
		connectPort,
	), listen(
		unix.SOCK_STREAM,
		bulkPort,
	), listen(
		unix.SOCK_DGRAM,
		datagramPort,
	)
	b.Cleanup(func() {
		for _, fd := range []int{connects, bulk, datagrams} {
			_ = unix.Shutdown(
				fd,
				unix.SHUT_RDWR,
			) // it wakes who waits, also where the answer is that nothing is connected
		}
		running.Wait()
		for _, fd := range []int{connects, bulk, datagrams} {
			_ = unix.Close(fd)
		}
	})
	running.Go(func() { accept(connects, func(int) {}) })
	running.Go(func() { accept(bulk, drain) })
	for range 2 { // as many as CPUs: it may be that one pod has all clients
		running.Go(func() { echo(datagrams) })
	}
}

// accept accepts connections until the listener is shut down, and closes them.
func accept(listener int, use func(fd int)) {
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			continue
		case err != nil:
			return
		}
		use(fd)
		_ = unix.Close(fd)
	}
}

// drain reads to the end, without having the kernel copy anything.
func drain(fd int) {
	buffer := make([]byte, 1<<20)
	for {
		if n, _, err := unix.Recvfrom(fd, buffer, unix.MSG_TRUNC); n <= 0 && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// echo answers datagrams until the socket is shut down.
func echo(fd int) {
	buffer := make([]byte, 64)
	for {
		n, from, err := unix.Recvfrom(fd, buffer, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || from == nil:
			return
		}
		_ = unix.Sendto(fd, buffer[:n], 0, from) // the client is told by the lack of an answer
	}
}
