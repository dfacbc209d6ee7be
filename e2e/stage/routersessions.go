//go:build linux

package stage

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// RouterSession is a BGP session as the router shows it.
type RouterSession struct {
	// State is FRR's name for it: Established, Active and so on.
	State string
	// Established and Dropped count how many times the session came up and went down since the router
	// started. (FRR's time of the last change is reckoned from two clocks, and differs by a second
	// between two looks.)
	Established int `json:"connectionsEstablished"`
	Dropped     int `json:"connectionsDropped"`
}

// RouterSessions returns the router's sessions with the nodes' IPv4 addresses, by node.
func (s *Stage) RouterSessions(ctx context.Context) (map[string]RouterSession, error) {
	out, err := s.Vtysh(ctx, "show bgp ipv4 unicast summary json")
	if err != nil {
		return nil, err
	}
	var summary struct{ Peers map[string]RouterSession }
	if err := json.Unmarshal([]byte(out), &summary); err != nil {
		return nil, fmt.Errorf("the router's sessions: %w in %q", err, out)
	}
	sessions := map[string]RouterSession{}
	for address, session := range summary.Peers { // those over IPv6 are among them
		if node := s.nodeAt(address); node != "" && !strings.Contains(address, ":") {
			sessions[node] = session
		}
	}
	return sessions, nil
}

// CrashBGP ends the worker of berth-bgp on a node by a fault of its memory. Its keeper starts
// another.
func (s *Stage) CrashBGP(ctx context.Context, node string) error {
	keeper, err := s.Process(ctx, "bgp@"+node)
	if err != nil {
		return err
	}
	// The threads of a process know which of its children they have started.
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", keeper.PID))
	if err != nil {
		return fmt.Errorf("find the worker of %s: %w", keeper.Name, err)
	}
	for _, file := range threads {
		text, err := os.ReadFile(file)
		var worker int
		if err != nil {
			continue // the thread has ended
		}
		if _, err := fmt.Sscan(string(text), &worker); err != nil {
			continue // it has started none
		}
		if err := unix.Kill(worker, unix.SIGSEGV); err != nil {
			return fmt.Errorf("crash the worker of %s: %w", keeper.Name, err)
		}
		return nil
	}
	return fmt.Errorf("%s has no worker", keeper.Name)
}
