//go:build linux

package lab

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/berth-lb/berth/e2e/host"
)

// The autonomous systems of the rack.
const (
	RouterAS = 64512 // of the top-of-rack router
	NodeAS   = 64513 // of the nodes, and so of their speakers
)

const frrDir = "/usr/lib/frr"

// frrSpec adds user frr and FRR's configuration to the router.
func (l *Lab) frrSpec(spec host.Spec) (host.Spec, error) {
	uid, gid := 9750, 9750
	// FRR and its user may be installed on the machine.
	if u, err := user.Lookup("frr"); err == nil {
		if uid, err = strconv.Atoi(u.Uid); err != nil {
			return spec, fmt.Errorf("look up user frr: %w", err)
		}
		if gid, err = strconv.Atoi(u.Gid); err != nil {
			return spec, fmt.Errorf("look up user frr: %w", err)
		}
	} else {
		spec.Files = append(spec.Files,
			host.File{
				Path: "/etc/passwd", Append: true, Mode: 0o644,
				Text: fmt.Sprintf("frr:x:%d:%d::/nonexistent:/usr/sbin/nologin\n", uid, gid),
			},
			host.File{
				Path: "/etc/group", Append: true, Mode: 0o644, Text: fmt.Sprintf("frr:x:%d:\nfrrvty:x:%d:frr\n", gid, gid+1),
			},
		)
	}
	spec.Dirs = append(
		spec.Dirs, host.Dir{Path: "/run/frr", UID: uid, GID: gid},
		host.Dir{Path: "/var/tmp/frr", UID: uid, GID: gid},
	)
	// vtysh needs PAM, even for root.
	const pam = "auth sufficient pam_rootok.so\naccount sufficient pam_rootok.so\n"
	spec.Files = append(spec.Files, host.File{Path: "/etc/pam.d/frr", Text: pam, Mode: 0o644})
	for name, text := range map[string]string{
		"zebra.conf": "hostname router\n",
		"bfdd.conf":  "hostname router\n",
		"bgpd.conf":  bgpdConfig(l.plan, l.opts.DualStack),
		"vtysh.conf": "no service integrated-vtysh-config\n",
	} {
		spec.Files = append(spec.Files, host.File{Path: "/etc/frr/" + name, Text: text, Mode: 0o640, UID: uid, GID: gid})
	}
	return spec, nil
}

// bgpdConfig makes every node a neighbor, on IPv4 and, with dual stack, on IPv6 too. Each session
// may carry both families.
func bgpdConfig(p plan, dualStack bool) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("hostname router")
	line("router bgp %d", RouterAS)
	line(" bgp router-id 172.30.0.1")
	line(" no bgp ebgp-requires-policy")
	line(" no bgp default ipv4-unicast")
	line(" bgp bestpath as-path multipath-relax")
	neighbors := neighborsOf(p)
	for _, n := range neighbors {
		line(" neighbor %s remote-as %d", n, NodeAS)
		line(" neighbor %s timers 3 9", n)
		line(" neighbor %s timers connect 1", n)
		line(" neighbor %s advertisement-interval 0", n)
		line(" neighbor %s bfd 3 100 100", n)
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		line(" address-family %s unicast", family)
		line("  maximum-paths 16")
		for _, n := range neighbors {
			if family == "ipv4" || dualStack {
				line("  neighbor %s activate", n)
			}
		}
		line(" exit-address-family")
	}
	return b.String()
}

func neighborsOf(p plan) []netip.Addr {
	var all []netip.Addr
	for _, h := range p.hosts {
		if h.node != 0 {
			all = append(all, h.addresses()...)
		}
	}
	return all
}

// startRouter starts FRR's daemons, if the lab has them.
func (l *Lab) startRouter(ctx context.Context) error {
	if l.opts.Router != "frr" {
		return nil
	}
	for _, name := range []string{"zebra", "bfdd", "bgpd"} {
		if err := l.startDaemon(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) startDaemon(ctx context.Context, name string) error {
	if own := filepath.Join(l.folder.Packages(), frrDir, name); !exists(own) && !exists(filepath.Join(frrDir, name)) {
		return fmt.Errorf("FRR's %s is not among the fetched packages: remove %s and run `lab fetch`", name, l.folder.Packages())
	}
	argv := []string{filepath.Join(frrDir, name), "-f", "/etc/frr/" + name + ".conf", "--log", "stdout"}
	if err := l.start(ctx, Router, name, argv...); err != nil {
		return err
	}
	return l.healthy(ctx, Router, name, l.listens(Router, "/run/frr/"+name+".vty"))
}

// Vtysh runs a command in the shell of the router's FRR, such as "show bgp ipv4 unicast json", and
// returns what it printed.
func (l *Lab) Vtysh(ctx context.Context, command string) (string, error) {
	if l.opts.Router != "frr" {
		return "", fmt.Errorf("lab %q has no FRR: bring it up with --router frr", l.opts.Name)
	}
	return l.vtysh(ctx, command)
}

// ConfigureRouter runs commands in FRR's BGP configuration, such as "neighbor 172.30.0.11 password
// x".
func (l *Lab) ConfigureRouter(ctx context.Context, lines ...string) error {
	if l.opts.Router != "frr" {
		return fmt.Errorf("lab %q has no FRR: bring it up with --router frr", l.opts.Name)
	}
	out, err := l.vtysh(ctx, append([]string{"configure terminal", fmt.Sprintf("router bgp %d", RouterAS)}, lines...)...)
	if err == nil && strings.Contains(out, "%") {
		err = fmt.Errorf("FRR refuses its configuration: %s", strings.TrimSpace(out))
	}
	return err
}

func (l *Lab) vtysh(ctx context.Context, commands ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	argv := []string{"vtysh"}
	for _, c := range commands {
		argv = append(argv, "-c", c)
	}
	cmd := l.Exec(ctx, Router, argv...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("vtysh %q: %w: %s", commands, err, bytes.TrimSpace(append(out, stderr.Bytes()...)))
	}
	return string(out), nil
}
