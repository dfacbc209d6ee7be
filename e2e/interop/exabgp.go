//go:build linux

package interop

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// exabgp is ExaBGP, which has no table of what it hears: it tells a program of its user.
type exabgp struct{ machine }

const exabgpConfig = `
process listener {
  run /bin/sh {{.Dir}}/listener.sh;
  encoder json;
}
neighbor {{if .Interface}}fe80::9{{else}}{{.Node}}{{end}} {
  router-id 10.0.0.1;
  local-address {{if .Interface}}fe80::1{{else}}{{.Router}}{{end}};
  local-as {{.RouterAS}};
  peer-as {{.NodeAS}};
{{- if not .Dials}}
  passive true;
{{- end}}
  family { ipv4 unicast; ipv6 unicast; }
  api {
    processes [ listener ];
    neighbor-changes;
    receive { parsed; open; update; keepalive; }
  }
{{.Neighbor}}
}
`

func (e *exabgp) python(ctx context.Context, args ...string) *exec.Cmd {
	root := e.folder.Routers()
	cmd := e.command(ctx, "usr/bin/python3", append([]string{filepath.Join(root, "usr/sbin/python3-exabgp")}, args...)...)
	if exists(filepath.Join(root, "usr/bin/python3")) { // the machine has none
		cmd.Env = append(cmd.Env, "PYTHONHOME="+filepath.Join(root, "usr"))
	}
	env := []string{
		"PYTHONPATH=" + filepath.Join(root, "usr/lib/python3/dist-packages"), "PYTHONDONTWRITEBYTECODE=1",
		"exabgp_daemon_user=root", "exabgp_daemon_drop=false", "exabgp_daemon_daemonize=false",
		"exabgp_api_cli=false", "exabgp_api_ack=false", "exabgp_log_level=INFO", "exabgp_log_destination=stdout",
		"exabgp_tcp_port=" + e.settings.Port,
	}
	switch {
	case e.settings.Interface:
		env = append(env, "exabgp_tcp_bind=::")
	case !e.settings.Dials:
		env = append(env, "exabgp_tcp_bind="+e.settings.Router)
	}
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

func (e *exabgp) start(ctx context.Context, neighbor string) error {
	if err := e.write("exabgp.conf", exabgpConfig, neighbor); err != nil {
		return err
	}
	// The shell keeps its output open, without which ExaBGP calls it dead.
	script := "cat >" + e.file("events") + "\n"
	if err := os.WriteFile(e.file("listener.sh"), []byte(script), 0o755); err != nil {
		return err
	}
	if err := os.Remove(e.file("events")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := e.spawn(e.python(ctx, e.file("exabgp.conf")), "exabgp"); err != nil {
		return err
	}
	return poll(ctx, func() error { _, err := os.Stat(e.file("events")); return err })
}

func (e *exabgp) check(ctx context.Context, neighbor string) (string, error) {
	if err := e.write("exabgp.conf", exabgpConfig, neighbor); err != nil {
		return "", err
	}
	out, err := e.python(ctx, "--test", e.file("exabgp.conf")).CombinedOutput()
	return string(out), err
}

// exabgpEvent is a line that ExaBGP tells its user's program.
type exabgpEvent struct {
	Type     string
	Neighbor struct {
		State, Direction string
		Open             struct {
			HoldTime     int `json:"hold_time"`
			Capabilities map[string]json.RawMessage
		}
		Message struct {
			Update struct {
				Attribute exabgpAttributes
				Announce  map[string]map[string][]struct{ NLRI string }
				Withdraw  map[string][]struct{ NLRI string }
			}
		}
	}
}

type exabgpAttributes struct {
	ASPath         json.RawMessage `json:"as-path"`
	MED            *int
	Local          *int    `json:"local-preference"`
	Community      [][]int `json:"community"`
	LargeCommunity [][]int `json:"large-community"`
	Extended       []struct {
		Value  uint64
		String string
	} `json:"extended-community"`
}

func (e *exabgp) state(context.Context) (state, error) {
	var s state
	file, err := os.Open(e.file("events"))
	if err != nil {
		return s, err
	}
	defer file.Close()
	table := map[string]Route{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event exabgpEvent
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return s, fmt.Errorf("ExaBGP's event: %w: %s", err, lines.Text())
		}
		n := event.Neighbor
		switch event.Type {
		case "state":
			s.up = n.State == "up"
			if !s.up {
				clear(table) // those of a session that is gone
			}
		case "keepalive":
			s.keepalives++
		case "open":
			if n.Direction == "receive" {
				s.hold = n.Open.HoldTime
				s.restart = exabgpRestart(n.Open.Capabilities)
			}
		case "update":
			for _, hops := range n.Message.Update.Withdraw {
				for _, w := range hops {
					delete(table, w.NLRI)
				}
			}
			for _, hops := range n.Message.Update.Announce {
				for hop, announced := range hops {
					for _, a := range announced {
						table[a.NLRI] = n.Message.Update.Attribute.route(a.NLRI, hop)
					}
				}
			}
		}
	}
	for _, r := range table {
		s.routes = append(s.routes, r)
	}
	return s, lines.Err()
}

// exabgpRestart finds the time of the capability graceful restart.
func exabgpRestart(capabilities map[string]json.RawMessage) int {
	var restart struct {
		Name string
		Time int
	}
	for _, c := range capabilities {
		if json.Unmarshal(c, &restart) == nil && restart.Name == "graceful restart" {
			return restart.Time
		}
	}
	return 0
}

func (a exabgpAttributes) route(prefix, hop string) Route {
	r := Route{Prefix: prefix, Via: hop, Path: exabgpPath(a.ASPath)}
	if a.MED != nil {
		r.MED = strconv.Itoa(*a.MED)
	}
	if a.Local != nil {
		r.Local = strconv.Itoa(*a.Local)
	}
	join := func(numbers []int) string {
		return strings.ReplaceAll(strings.Trim(fmt.Sprint(numbers), "[]"), " ", ":")
	}
	for _, c := range a.Community {
		r.Communities = append(r.Communities, join(c))
	}
	for _, c := range a.LargeCommunity {
		r.Large = append(r.Large, join(c))
	}
	for _, c := range a.Extended {
		var bytes []byte
		for shift := 56; shift >= 0; shift -= 8 {
			bytes = append(bytes, byte(c.Value>>shift))
		}
		r.Bandwidth = bandwidth(bytes)
	}
	return r
}

// exabgpPath reads an AS path: a list, or a list in each of several segments.
func exabgpPath(path json.RawMessage) string {
	var list []int
	if json.Unmarshal(path, &list) != nil {
		var segments map[string]struct{ Value []int }
		if json.Unmarshal(path, &segments) == nil {
			for _, s := range segments {
				list = append(list, s.Value...)
			}
		}
	}
	return strings.Trim(fmt.Sprint(list), "[]")
}
