//go:build linux

// Command bench measures Berth in a lab of three nodes and a router. It prints a line "name value
// unit" for each figure, and writes them as JSON. It has no thresholds.
//
// It measures the whole chain, including kube-proxy and a client's kernel, on this machine under
// its current load.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/berth-lb/berth/e2e/hollow"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

func main() {
	file := flag.String("json", "bin/bench.json", "file to write the figures to")
	many := flag.Int("scale", 0, "measure the controller alone, with so many Services")
	program := flag.String("berth", "", "berth program to measure with -scale; default: the one that the lab runs")
	crowded := flag.Int("crowd", 0, "measure all of Berth with so many Services, alone")
	routes := flag.Int("routes", 0, "measure the routes of so many Services alone")
	part := flag.String("run", "", "measure only those parts whose names match this regular expression")
	leaves := flag.Int("leaves", 0, "make the owner of an address leave so many times in each of three ways, alone")
	sizes := flag.String("hollow", "", "measure hollow clusters of these numbers of nodes alone, like 10,25,50")
	var hollowed hollow.Options
	flag.IntVar(&hollowed.Services, "hollow-services", 1000, "with -hollow: Services of type LoadBalancer")
	flag.IntVar(&hollowed.Others, "hollow-others", 1000, "with -hollow: Services of type ClusterIP")
	flag.IntVar(&hollowed.Routed, "hollow-routed", 0, "with -hollow: Services by BGP, at the last size; 0: none")
	flag.DurationVar(&hollowed.Quiet, "hollow-quiet", 15*time.Second, "with -hollow: how long things settle")
	flag.DurationVar(&hollowed.Span, "hollow-span", 30*time.Second, "with -hollow: how long something is counted")
	rounds := flag.Int("rounds", 10, "how often an address is made to move in each way")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	var err error
	switch wanted, wrong := regexp.Compile(*part); {
	case wrong != nil:
		err = fmt.Errorf("-run %s: %w", *part, wrong)
	case *sizes != "":
		hollowed.Parts = wanted
		err = runHollow(ctx, *file, *sizes, hollowed)
	case *many > 0:
		err = runScale(ctx, *file, *program, *many)
	case *crowded > 0:
		err = runCrowd(ctx, *file, *crowded)
	case *routes > 0:
		err = run(ctx, *file, func(b *bench) []step { return b.routesOf(*routes) })
	default:
		err = run(ctx, *file, func(b *bench) []step {
			b.rounds = *rounds
			parts := b.parts()
			if *leaves > 0 {
				parts = b.leaves(*leaves)
			}
			return slices.DeleteFunc(parts, func(s step) bool { return !wanted.MatchString(s.name) })
		})
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// runHollow measures hollow clusters, in namespaces of their own.
func runHollow(ctx context.Context, file, sizes string, o hollow.Options) error {
	for text := range strings.SplitSeq(sizes, ",") {
		size, err := strconv.Atoi(text)
		if err != nil || size < 1 || size > 250 {
			return fmt.Errorf("-hollow %s: %q is not a number of nodes from 1 to 250", sizes, text)
		}
		o.Nodes = append(o.Nodes, size)
	}
	if !slices.IsSorted(o.Nodes) {
		return fmt.Errorf("-hollow %s: give the sizes in ascending order", sizes)
	}
	if !hollow.Inside() {
		return hollow.Enter(ctx)
	}
	r := newReport(os.Stdout)
	o.Figure, o.Log = r.add, os.Stderr
	return errors.Join(hollow.Run(ctx, o), r.write(file))
}

// step is a part of the measurement.
type step struct {
	name string
	do   func(context.Context) error
}

// run measures in a lab with Berth on it.
func run(ctx context.Context, file string, steps func(*bench) []step) (err error) {
	l, err := lab.Up(ctx, lab.Options{Name: "bench", Nodes: 3, Router: "frr", DualStack: true, Log: os.Stderr})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down(context.WithoutCancel(ctx))) }()
	s, err := stage.New(l, false) // the lab is dual-stack, but the Services of the benchmark have one family
	if err != nil {
		return err
	}
	b := &bench{Stage: s, report: newReport(os.Stdout)}
	defer func() {
		if b.steady != nil {
			err = errors.Join(err, b.steady.seen.Stop())
		}
	}()
	if err := inTurn(ctx, append(b.preparations(), steps(b)...)); err != nil {
		if ctx.Err() == nil {
			b.Explain(ctx, os.Stderr)
		}
		return err
	}
	return b.report.write(file)
}

type bench struct {
	*stage.Stage
	report *report
	rounds int
	steady *steady // nil: not deployed yet
}

const namespace = "bench"

// everywhere is an application with a pod on each node.
func everywhere() stage.App { return stage.App{Namespace: namespace, Name: "everywhere"} }

func (b *bench) preparations() []step {
	return []step{
		{"install", b.Install},
		{"configure", b.Configure},
		{"sessions", func(ctx context.Context) error { return b.AwaitSpeakers(ctx, true) }},
		{"deploy", func(ctx context.Context) error { return b.Deploy(ctx, everywhere()) }},
	}
}

func (b *bench) parts() []step {
	return []step{
		{"memory when idle", func(ctx context.Context) error { return b.memory(ctx, "idle") }},
		{"new Services by ARP", b.newServicesL2},
		{"new Services by BGP", b.newServicesBGP},
		{"loss of the owner", b.steadily(b.losses)},
		{"planned leave", b.steadily(b.leave)},
		{"partitions", b.steadily(b.partitions)},
		{"rolling restart", b.steadily(b.restart)},
		{"losses behind the router", b.routedLosses},
		{"many Services", b.many},
	}
}

func inTurn(ctx context.Context, steps []step) error {
	for _, step := range steps {
		fmt.Fprintf(os.Stderr, "# %s\n", step.name)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}
