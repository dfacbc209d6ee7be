// Command berth-bgp speaks BGP on a node, as the speaker in the same pod wants it. It runs in a
// container of its own, and has a worker, which is the same program again, do it: a fault in one of
// them ends nothing else.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/berth-lb/berth/internal/lines"
	"github.com/berth-lb/berth/internal/liveness"
	"github.com/berth-lb/berth/internal/version"
	"github.com/berth-lb/berth/speaker/bfdliveness"
	"github.com/berth-lb/berth/speaker/bgpd"
	"github.com/berth-lb/berth/speaker/heart"
)

func main() { os.Exit(run()) }

func run() int {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "berth-bgp:", err)
		return 1
	}
	return 0
}

func serve() error {
	socket := flag.String("socket", "/run/berth-bgp/bgp.sock", "socket where the speaker connects; its folder belongs to root only")
	state := flag.String("state", "/run/berth-bgp/bgp.state", "file that keeps what this node announces over an end of this process, the passwords of sessions included: best in memory; empty: none")
	bfd := flag.String("bfd", "", "socket of berth-heart, which watches paths by BFD; empty: none is watched")
	worker := flag.Bool("worker", false, "speak BGP for the process that starts this one, and nobody else")
	verbose := flag.Bool("v", false, "log details, too")
	shown := flag.Bool("version", false, "print the version, and end")
	flag.Parse()
	if *shown {
		fmt.Println("berth-bgp", version.Number())
		return nil
	}
	if flag.NArg() > 0 {
		return fmt.Errorf("unknown argument %q; see -help", flag.Arg(0))
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	logger := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	loops := liveness.New()
	if *worker {
		return work(loops, logger)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx = loops.Context(ctx)
	go loops.Watch(ctx, logger) // ends with the process
	return keep(ctx, logger, *socket, *state, *bfd, *verbose)
}

// work is the worker. It ends with its keeper, and not by a signal to both.
func work(loops *liveness.Loops, logger *slog.Logger) error {
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	conn, trace, err := bgpd.Inherited()
	if err != nil {
		return fmt.Errorf("-worker: %w", err)
	}
	ctx := loops.Context(context.Background())
	go loops.Watch(ctx, logger) // ends with the process
	return bgpd.Work(ctx, conn, trace, logger)
}

// keep is the keeper.
func keep(ctx context.Context, logger *slog.Logger, socket, state, bfd string, verbose bool) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	config := bgpd.KeeperConfig{Logger: logger, Worker: []string{self, "-worker"}, StateFile: state}
	if verbose {
		config.Worker = append(config.Worker, "-v")
	}
	// The paths are told at the end, too.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	var watching sync.WaitGroup
	defer watching.Wait()
	defer end()
	if bfd != "" {
		watcher := bfdliveness.New(heart.NewPaths(lines.Dial(bfd), logger))
		config.Liveness = watcher
		watching.Go(func() { _ = watcher.Run(life) })
	}
	l, err := lines.Listen(ctx, socket)
	if err != nil {
		return fmt.Errorf("-socket %s: %w", socket, err)
	}
	logger.Info("waiting for the speaker", "version", version.Number(), "socket", socket)
	return bgpd.NewKeeper(config).Run(ctx, l)
}
