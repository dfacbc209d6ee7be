//go:build linux

package interop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-lb/berth/e2e/stock"
)

// patience is for a machine that is busy.
const patience = 90 * time.Second

// cell is one script with one daemon.
type cell struct {
	script *Script
	daemon string
	router router
	node   *node
	log    *slog.Logger
}

// RunCell runs a script with a daemon, in a process that is in new network, mount and PID
// namespaces and ends afterwards. It returns why the daemon does not show what is wanted.
func RunCell(ctx context.Context, folder stock.Folder, path, daemon string) error {
	script, err := Parse(path)
	if err != nil {
		return err
	}
	if err := prepare(); err != nil {
		return err
	}
	network, err := connect(ctx, script.Settings)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("/run", "cell") // a short name, for sockets are in it
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	m := machine{folder: folder, network: network, dir: dir, settings: script.Settings}
	c := &cell{script: script, daemon: daemon, log: log, router: newRouter(daemon, m)}
	if refused, ok := script.Refused[daemon]; ok {
		return c.refuses(ctx, refused)
	}
	if err := c.run(ctx); err != nil {
		return errors.Join(err, said(dir))
	}
	return nil
}

// refuses shows that the daemon does not take a configuration.
func (c *cell) refuses(ctx context.Context, refused Refusal) error {
	out, err := c.router.check(ctx, refused.Config)
	if err == nil {
		return fmt.Errorf("%s takes a configuration that it should refuse: %s", c.daemon, out)
	}
	if !strings.Contains(out, refused.Says) {
		return fmt.Errorf("%s refuses a configuration, and does not say %q: %s", c.daemon, refused.Says, out)
	}
	return nil
}

func (c *cell) run(ctx context.Context) error {
	if err := c.router.start(ctx, c.script.Neighbor[c.daemon]); err != nil {
		return err
	}
	var err error
	if c.node, err = startNode(ctx, c.log, c.script.Settings); err != nil {
		return err
	}
	objects := ""
	for _, step := range c.script.StepsFor(c.daemon) {
		switch step.Kind {
		case "objects":
			objects = step.Text
			err = c.node.apply(objects)
		case "want":
			err = c.await(ctx, step.Text)
		case "router: restart":
			err = c.restart(ctx)
		case "berth: replace":
			err = c.node.end(true)
		case "berth: next":
			if c.node, err = startNode(ctx, c.log, c.script.Settings); err == nil {
				err = c.node.apply(objects)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", step.Kind, err)
		}
	}
	return c.node.end(false)
}

// restart restarts the daemon, with Berth's notice between.
func (c *cell) restart(ctx context.Context) error {
	if err := c.router.stop(); err != nil {
		return err
	}
	err := poll(ctx, func() error {
		if slices.Contains(c.node.shows(), "berth established") {
			return errors.New("the daemon is gone, and Berth has not noticed")
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.router.start(ctx, c.script.Neighbor[c.daemon])
}

// await waits until what is shown is what is wanted. A want is lines:
//
//	route PREFIX via ...  all routes that the daemon has, as Route.text writes them
//	no routes
//	hold SECONDS          that were negotiated, or that the daemon was told
//	keepalives NUMBER     that the daemon got, or more
//	session up|down       as the daemon sees it
//	restart SECONDS       how long it is to keep the routes
//	bfd-peer TEXT         what the daemon knows of BFD
//	bfd STATE             as Berth sees it
//	keeps routes          graceful restart was negotiated, as Berth sees it
//	error TEXT            a part of the last error that Berth shows
func (c *cell) await(ctx context.Context, want string) error {
	return poll(ctx, func() error {
		state, err := c.router.state(ctx)
		if err != nil {
			return err
		}
		return state.has(want, c.script.Settings.internal(), c.node.shows())
	})
}

// poll asks again and again: daemons do not tell.
func poll(ctx context.Context, ok func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		err := ok()
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("after %s: %w", patience, err)
		}
	}
}

// state is what a daemon shows.
type state struct {
	routes     []Route
	up         bool
	hold       int
	keepalives int
	restart    int
	bfd        string
}

// has returns what is not as wanted.
func (s state) has(want string, internal bool, node []string) error {
	var routes []string
	for _, r := range s.routes {
		routes = append(routes, r.text(internal))
	}
	slices.Sort(routes)
	var wanted []string
	about := false
	for line := range strings.Lines(want) {
		line = strings.TrimSpace(line)
		key, value, _ := strings.Cut(line, " ")
		number, _ := strconv.Atoi(value)
		ok := true
		switch key {
		case "":
		case "route":
			wanted, about = append(wanted, line), true
		case "no":
			about = true
		case "hold":
			ok = s.hold == number
		case "keepalives":
			ok = s.keepalives >= number
		case "restart":
			ok = s.restart == number
		case "session":
			ok = s.up == (value == "up")
		case "bfd-peer":
			ok = s.bfd == value
		case "error":
			ok = slices.ContainsFunc(node, func(n string) bool {
				return strings.HasPrefix(n, "error ") && strings.Contains(n, value)
			})
		default:
			ok = slices.Contains(node, line)
		}
		if !ok {
			return fmt.Errorf("want %q; the daemon shows %+v, Berth %q", line, s, node)
		}
	}
	slices.Sort(wanted)
	if about && !slices.Equal(routes, wanted) {
		return fmt.Errorf("the daemon has\n  %s\nwant\n  %s\nBerth shows %q",
			strings.Join(routes, "\n  "), strings.Join(wanted, "\n  "), node)
	}
	return nil
}

// said is the end of what the daemons logged.
func said(dir string) error {
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return err
	}
	var all []error
	for _, path := range logs {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		lines = lines[max(0, len(lines)-15):]
		all = append(all, fmt.Errorf("%s:\n%s", filepath.Base(path), strings.Join(lines, "\n")))
	}
	return errors.Join(all...)
}
