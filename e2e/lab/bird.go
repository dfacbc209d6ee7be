//go:build linux

package lab

import (
	"bytes"
	"context"
	"fmt"
	"os/user"
	"strings"
	"time"

	"github.com/berth-lb/berth/e2e/host"
)

// Spine is a second router, BIRD, on the rack's segment. It speaks BGP and forwards nothing.
const Spine = "spine"

// SpineAS is the spine's autonomous system. Over IPv4 it expects the nodes in NodeAS, over IPv6 in
// its own.
const SpineAS = 64514

const spineNumber = 3 // last part of its addresses

// birdSpec adds BIRD's user and configuration.
func (l *Lab) birdSpec(spec host.Spec) host.Spec {
	if _, err := user.Lookup("bird"); err != nil {
		spec.Files = append(spec.Files,
			host.File{Path: "/etc/passwd", Append: true, Mode: 0o644, Text: "bird:x:9760:9760::/nonexistent:/usr/sbin/nologin\n"},
			host.File{Path: "/etc/group", Append: true, Mode: 0o644, Text: "bird:x:9760:\n"})
	}
	spec.Dirs = append(spec.Dirs, host.Dir{Path: "/run/bird"})
	spec.Files = append(spec.Files,
		host.File{Path: "/etc/bird/bird.conf", Mode: 0o644, Text: birdConfig(l.plan)},
		host.File{Path: birdMore, Mode: 0o644})
	return spec
}

// birdMore is a file of BIRD's configuration that ConfigureSpine writes.
const birdMore = "/etc/bird/more.conf"

// birdConfig makes every node a neighbor: external over IPv4, internal over IPv6.
func birdConfig(p plan) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("log stderr all;")
	line("router id 172.30.0.%d;", spineNumber)
	line("include %q;", birdMore)
	line("protocol device {}")
	line("protocol direct { ipv4; ipv6; interface %q; }", rackPort)
	line("protocol bfd { interface %q { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }", rackPort)
	for _, h := range p.hosts {
		if h.node == 0 {
			continue
		}
		for _, a := range h.addresses() {
			name, as, neighbor := "four", SpineAS, NodeAS
			if a.Is6() {
				name, neighbor = "six", SpineAS
			}
			line("protocol bgp %s%s {", h.name, name)
			line("  local as %d; neighbor %s as %d; direct; bfd graceful; hold time 9; keepalive time 3; passive; graceful restart on;", as, a, neighbor)
			for _, family := range []string{"ipv4", "ipv6"} {
				line("  %s { import all; export none; extended next hop on; };", family)
			}
			line("}")
		}
	}
	return b.String()
}

// startSpine starts BIRD, if the lab has it.
func (l *Lab) startSpine(ctx context.Context) error {
	if l.opts.Router != "frr" {
		return nil
	}
	if err := l.start(
		ctx, Spine, "bird", "/usr/sbin/bird", "-f", "-c", "/etc/bird/bird.conf", "-s", "/run/bird/bird.ctl",
	); err != nil {
		return err
	}
	return l.healthy(ctx, Spine, "bird", func(ctx context.Context) error {
		_, err := l.Birdc(ctx, "show status")
		return err
	})
}

// ConfigureSpine adds text to BIRD's configuration, replacing what was added before, and reloads
// it.
func (l *Lab) ConfigureSpine(ctx context.Context, text string) error {
	cmd := l.Exec(ctx, Spine, "tee", birdMore)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("write %s of %s: %w: %s", birdMore, Spine, err, bytes.TrimSpace(out))
	}
	out, err := l.Birdc(ctx, "configure")
	if err == nil && !strings.Contains(out, "Reconfig") {
		err = fmt.Errorf("BIRD refuses its configuration: %s", strings.TrimSpace(out))
	}
	return err
}

// Birdc runs a command in the shell of the spine's BIRD, such as "show route all", and returns what
// it printed.
func (l *Lab) Birdc(ctx context.Context, command string) (string, error) {
	if l.opts.Router != "frr" {
		return "", fmt.Errorf("lab %q has no BIRD: bring it up with --router frr", l.opts.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := l.Exec(ctx, Spine, append([]string{"birdc", "-s", "/run/bird/bird.ctl"}, strings.Fields(command)...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("birdc %s: %w: %s", command, err, bytes.TrimSpace(append(out, stderr.Bytes()...)))
	}
	return string(out), nil
}
