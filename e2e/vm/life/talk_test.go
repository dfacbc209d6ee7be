//go:build qemu

package life_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-lb/berth/e2e/vm/cluster"
)

// talkEvery is the time between two messages on a connection.
const talkEvery = 200 * time.Millisecond

// talk is a TCP connection or UDP flow of the client that is used all the time.
type talk struct {
	network, address string
	pod              string // that answers
	conn             net.Conn
	ended            chan struct{}
	done             chan struct{}

	mu  sync.Mutex
	err error // guarded by mu; it broke
}

// talk opens connections by TCP to each address, and half as many flows of UDP.
func (l *life) talk(t *testing.T, each int) []*talk {
	t.Helper()
	var all []*talk
	for _, a := range addresses {
		for i := range each + each/2 {
			network := "tcp"
			if i >= each {
				network = "udp"
			}
			all = append(all, newTalk(t, network, a))
		}
	}
	return all
}

func newTalk(t *testing.T, network, address string) *talk {
	t.Helper()
	conn, err := cluster.Dial(cluster.Client, network, address, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	answer, err := cluster.Say(conn)
	if err != nil {
		t.Fatalf("%s %s: %v", network, address, err)
	}
	k := &talk{
		network: network,
		address: address,
		pod:     answer.Pod,
		conn:    conn,
		ended:   make(chan struct{}),
		done:    make(chan struct{}),
	}
	go k.run()
	return k
}

func (k *talk) run() {
	defer close(k.done)
	tick := time.NewTicker(talkEvery)
	defer tick.Stop()
	for {
		select {
		case <-k.ended:
			return
		case <-tick.C:
		}
		answer, err := cluster.Say(k.conn)
		if err == nil && answer.Pod != k.pod {
			err = fmt.Errorf("%s answers in place of %s", answer.Pod, k.pod)
		}
		if err != nil {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.err = err
			return
		}
	}
}

// String names it as the kernel's list of connections does.
func (k *talk) String() string {
	return fmt.Sprintf("%s %s to %s", k.network, k.conn.LocalAddr(), k.address)
}

// isBroken returns nil if the connection is broken.
func (k *talk) isBroken() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err == nil {
		return errors.New("it goes on")
	}
	return nil
}

// end ends the talk after one more message, and returns the error that broke it.
func (k *talk) end() error {
	close(k.ended)
	<-k.done
	defer k.conn.Close()
	if k.err != nil {
		return k.err
	}
	_, err := cluster.Say(k.conn)
	return err
}

// endAll returns what broke, and why.
func endAll(talks []*talk) (broken []string) {
	for _, k := range talks {
		if err := k.end(); err != nil {
			broken = append(broken, fmt.Sprintf("%s: %v", k, err))
		}
	}
	return broken
}

// ask makes a connection, and has an answer.
func ask(address string) error {
	conn, err := cluster.Dial(cluster.Client, "tcp", address, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = cluster.Say(conn)
	return err
}

// inKernel is the flow as /proc/net/ip_vs_conn writes it: protocol, client, its port, address,
// port. All of them count, since the kernel gives a client the same port again for another address.
func (k *talk) inKernel() string {
	end := func(a net.Addr) string {
		ap := netip.MustParseAddrPort(a.String())
		if ip := ap.Addr().Unmap(); ip.Is4() {
			return fmt.Sprintf("%X %04X", ip.As4(), ap.Port())
		}
		return fmt.Sprintf("%s %04X", ap.Addr().StringExpanded(), ap.Port())
	}
	return strings.ToUpper(k.network) + " " + end(k.conn.LocalAddr()) + " " + end(k.conn.RemoteAddr())
}
