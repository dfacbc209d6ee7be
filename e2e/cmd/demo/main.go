//go:build linux

// Command demo shows Berth at work in a lab of three nodes and a router: it installs Berth,
// announces an application by ARP and by BGP, cuts a node off, and measures what clients see: of
// requests, and of connections without and with steering. Its exit status is 0 only if every step
// succeeded.
//
// With DEMO_KEEP=1 in the environment the lab stays up at the end, even after a failure.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Stdout, os.Getenv("DEMO_KEEP") == "1")
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case err == nil:
	case interrupted:
		fmt.Fprintln(os.Stderr, "demo: interrupted")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run runs the demo and takes the lab down in any case, unless it is to be kept.
func run(ctx context.Context, out io.Writer, keep bool) error {
	d := &demo{out: out, begun: time.Now()}
	err := d.step(ctx, "Start the lab: three nodes, a router that speaks BGP, a client on the rack, one behind the router", d.start)
	if err != nil {
		return err // the lab took itself down
	}
	err = d.play(ctx)
	if err != nil && ctx.Err() == nil {
		fmt.Fprintf(out, "\nStep %d failed. The cluster at this moment:\n", d.steps)
		d.Explain(ctx, out)
	}
	if keep && ctx.Err() == nil {
		d.suggest()
		return err
	}
	// This is not the demo's context: the lab must be removed even if that has ended.
	end := func(ctx context.Context) error { return d.Down(ctx) }
	return errors.Join(err, d.step(context.WithoutCancel(ctx), "Take the lab down", end))
}

// demo is the state of the demo.
type demo struct {
	out   io.Writer
	begun time.Time
	steps int

	*stage.Stage
	steady, dark string // name of the node that answers for Service steady; of the one that was cut
	services     []service
	held         []service // of long connections: plain, and steered
}

// step announces a step and does it.
func (d *demo) step(ctx context.Context, title string, do func(context.Context) error) error {
	d.steps++
	fmt.Fprintf(d.out, "\n[%5.1f s] %d. %s\n", time.Since(d.begun).Seconds(), d.steps, title)
	if err := do(ctx); err != nil {
		return fmt.Errorf("step %d, %s: %w", d.steps, title, err)
	}
	return nil
}

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, "  "+format+"\n", args...) }

func (d *demo) start(ctx context.Context) error {
	l, err := lab.Up(ctx, lab.Options{Name: "demo", Nodes: 3, Router: "frr", DualStack: true, Log: indented{d.out}})
	if err != nil {
		return err
	}
	d.Stage, err = stage.New(l, true)
	if err != nil {
		return errors.Join(err, l.Down(context.WithoutCancel(ctx)))
	}
	return nil
}
