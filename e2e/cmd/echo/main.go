// Command echo answers over HTTP, TCP and UDP with one line of JSON that describes the pod, its
// node, and the client's address. The pods behind the lab's Services run it.
//
// POST /unready and POST /ready switch what GET /ready, the readiness probe, says. After SIGTERM it
// reports that it is not ready, keeps serving for the time of -drain, and ends with status 0.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

func main() {
	var at addresses
	flag.StringVar(&at.http, "http", ":8080", "address to serve HTTP on")
	flag.StringVar(&at.tcp, "tcp", ":7000", "address to serve TCP on: an answer for each line")
	flag.StringVar(&at.udp, "udp", ":7000", "address to serve UDP on: an answer for each datagram")
	drain := flag.Duration("drain", 5*time.Second, "time to go on serving after SIGTERM")
	flag.Parse()
	told, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(told, at, *drain)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

// run serves until the drain time after told has ended has passed.
func run(told context.Context, at addresses, drain time.Duration) error {
	hostname, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("who am I: %w", err)
	}
	s := newServer(answer{Pod: os.Getenv("POD_NAME"), Node: os.Getenv("NODE_NAME"), Host: hostname})
	sockets, err := listen(at)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(context.Background())
	ctx, end := context.WithCancel(ctx)
	group.Go(func() error {
		defer end()
		select {
		case <-ctx.Done(): // serving failed
			return nil
		case <-told.Done():
		}
		s.leave()
		select {
		case <-ctx.Done():
		case <-time.After(drain):
		}
		return nil
	})
	group.Go(func() error { return s.serve(ctx, sockets) })
	return group.Wait()
}
