//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const netnsDir = "/run/netns"

// prefix begins the names of the lab's network namespaces and cgroups.
func (l *Lab) prefix() string { return "berth-" + l.opts.Name + "-" }

// netnsPath is where the network namespace of a host is bound, and where `ip netns exec` finds it.
func (l *Lab) netnsPath(host string) string { return filepath.Join(netnsDir, l.prefix()+host) }

// onThread runs do on a thread of its own that ends with it, so that do may move the thread to
// other namespaces.
func onThread(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			done <- do() // still locked: the thread ends with the goroutine
			return
		}
		// The main thread cannot end, and the process would seem to be in the lab forever. While this
		// goroutine holds it, another thread does the work.
		defer runtime.UnlockOSThread()
		done <- onThread(do)
	}()
	return <-done
}

// In runs do on a thread in the network namespace of a host. Sockets that do opens, files below
// /proc/sys/net and processes that it starts belong to the host's network.
func (l *Lab) In(host string, do func() error) error {
	err := inNetwork(l.netnsPath(host), "the network of "+host, do)
	if errors.Is(err, errNoNetwork) {
		return fmt.Errorf("there is no host %q in lab %q", host, l.opts.Name)
	}
	return err
}

// In runs do on a thread in the network namespace of the process; for a pod's process, that of the
// pod.
func (p Process) In(do func() error) error {
	return inNetwork(fmt.Sprintf("/proc/%d/ns/net", p.PID), "the network of "+p.Name, do)
}

var errNoNetwork = errors.New("it does not exist")

func inNetwork(path, what string, do func() error) error {
	ns, err := netns.GetFromPath(path)
	if errors.Is(err, os.ErrNotExist) {
		err = errNoNetwork
	}
	if err != nil {
		return fmt.Errorf("enter %s: %w", what, err)
	}
	defer ns.Close()
	return onThread(func() error {
		if err := unix.Setns(int(ns), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", what, err)
		}
		return do()
	})
}

// Dial connects from a host of the lab. The address must be numeric: hosts have no DNS.
func (l *Lab) Dial(ctx context.Context, host, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := l.In(host, func() error {
		var err error
		// For a numeric address the dialer opens the socket on this thread.
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// HTTPClient returns a client that makes requests from a host, each on a new connection. A request
// takes 5 s at most.
func (l *Lab) HTTPClient(host string) *http.Client {
	return &http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return l.Dial(ctx, host, network, address)
			},
		},
	}
}
