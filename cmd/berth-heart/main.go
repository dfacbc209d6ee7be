// Command berth-heart answers ARP, NDP and BFD on a node, as the speaker in the same pod wants it.
// It runs in a container of its own, so that nothing that the speaker does makes it late.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/liveness"
	"github.com/berth-lb/berth/internal/version"
	"github.com/berth-lb/berth/speaker/heart"
)

const watchEvery = 10 * time.Second

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
	h, err := heart.New(heart.Config{Logger: logger, StateFile: *state})
	if err != nil {
		return err
	}
	l, err := listen(ctx, *socket)
	if err != nil {
		return err
	}
	loops := liveness.New()
	ctx = loops.Context(ctx)
	go watch(ctx, loops, logger) // ends with the process
	logger.Info("waiting for the speaker", "version", version.Number(), "socket", *socket)
	return h.Run(ctx, l)
}

// watch ends the process, without what it otherwise does at its end, when one of its loops is
// stuck. There is no port for a liveness probe.
func watch(ctx context.Context, loops *liveness.Loops, logger *slog.Logger) {
	for async.Sleep(ctx, watchEvery) == nil {
		if stuck := loops.Stuck(); len(stuck) > 0 {
			logger.Error("a loop is stuck; this process ends, and is started again", "loop", stuck[0].Loop, "since", stuck[0].Since)
			os.Exit(1)
		}
	}
}

// listen listens on a socket that only root can connect to. What a former process left goes.
func listen(ctx context.Context, path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("-socket %s: %w", path, err)
	}
	former := syscall.Umask(0o177)
	defer syscall.Umask(former)
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("-socket %s: %w", path, err)
	}
	return l, nil
}
