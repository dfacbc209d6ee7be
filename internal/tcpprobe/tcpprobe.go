// Package tcpprobe asks whether the kernel of a host lives, by TCP: it does if it takes a
// connection, or refuses one. Nothing is sent.
package tcpprobe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/berth-lb/berth/internal/async"
)

const (
	// Within is how long the answers to all attempts of one question may take. Nearly always the node
	// was heard on a segment, so that its kernel answers in a millisecond, if it can.
	Within       = 140 * time.Millisecond
	attempts     = 3
	attemptEvery = 35 * time.Millisecond
)

// KubeletPort is the kubelet's TCP port, unless it is configured otherwise.
const KubeletPort = 10250

// Answers reports whether the kernel at one of the addresses answers on one of the ports: whether
// it accepts a connection or refuses it. One lost packet is not no answer: it asks again soon.
func Answers(ctx context.Context, addresses []netip.Addr, ports []uint16) bool {
	return anyAnswers(ctx, addresses, ports, func(ctx context.Context, to string) error {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", to)
		if err == nil {
			_ = conn.Close()
		}
		return err
	})
}

func anyAnswers(
	ctx context.Context, addresses []netip.Addr, ports []uint16, dial func(ctx context.Context, to string) error,
) bool {
	ctx, cancel := context.WithTimeout(ctx, Within)
	var dials sync.WaitGroup
	defer dials.Wait()
	defer cancel()
	answers := make(chan bool, attempts*len(addresses)*len(ports))
	for _, address := range addresses {
		for _, port := range ports {
			to := net.JoinHostPort(address.String(), strconv.Itoa(int(port)))
			for i := range attempts {
				dials.Go(func() {
					if async.Sleep(ctx, time.Duration(i)*attemptEvery) != nil {
						answers <- false
						return
					}
					err := dial(ctx, to)
					answers <- err == nil || errors.Is(err, syscall.ECONNREFUSED)
				})
			}
		}
	}
	for range cap(answers) {
		if <-answers {
			return true
		}
	}
	return false
}
