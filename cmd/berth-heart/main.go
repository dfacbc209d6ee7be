// Command berth-heart answers ARP, NDP and BFD on a node, as the speaker in the same pod wants it.
// It runs in a container of its own, so that nothing that the speaker does makes it late.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/berth-lb/berth/internal/lines"
	"github.com/berth-lb/berth/internal/liveness"
	"github.com/berth-lb/berth/internal/trace"
	"github.com/berth-lb/berth/internal/urgent"
	"github.com/berth-lb/berth/internal/version"
	"github.com/berth-lb/berth/speaker/heart"
)

// mostProcessors bounds what the Go runtime's own work, which is as urgent as the rest, takes at
// once on a machine with many.
const mostProcessors = 4

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "berth-heart:", err)
		return 1
	}
	return 0
}

func serve(ctx context.Context) error {
	socket := flag.String("socket", "/run/berth/heart.sock", "socket where the speaker connects; its folder belongs to root only")
	paths := flag.String("bfd-socket", "", "socket where berth-bgp connects, to have paths watched by BFD; empty: none")
	state := flag.String("state", "/run/berth/heart.state", "file that keeps what this node announces over an end of this process, the keys of hellos included: best in memory; empty: none")
	verbose := flag.Bool("v", false, "log details, too")
	shown := flag.Bool("version", false, "print the version, and end")
	flag.Parse()
	if *shown {
		fmt.Println("berth-heart", version.Number())
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
	seen := trace.New()
	h, err := heart.New(heart.Config{Logger: logger, StateFile: *state, Trace: seen})
	if err != nil {
		return err
	}
	l, err := lines.Listen(ctx, *socket)
	if err != nil {
		return fmt.Errorf("-socket %s: %w", *socket, err)
	}
	var others []net.Listener
	if *paths != "" {
		l, err := lines.Listen(ctx, *paths)
		if err != nil {
			return fmt.Errorf("-bfd-socket %s: %w", *paths, err)
		}
		others = append(others, l)
	}
	if l, err := trace.ListenBeside(ctx, *socket, "heart"); err != nil {
		logger.Warn("nobody can read the trace", "error", err)
	} else {
		go seen.Serve(ctx, l, logger) // ends with ctx
	}
	loops := liveness.New()
	ctx = loops.Context(ctx)
	runtime.GOMAXPROCS(min(runtime.NumCPU(), mostProcessors))
	go urgent.Keep(ctx, logger) // ends with ctx
	go loops.Watch(ctx, logger) // ends with the process
	logger.Info("waiting for the speaker", "version", version.Number(), "socket", *socket)
	return h.Run(ctx, l, others...)
}
