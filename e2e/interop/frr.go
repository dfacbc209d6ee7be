//go:build linux

package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// frr is FRR's zebra, bgpd and bfdd.
type frr struct{ machine }

const frrConfig = `
router bgp {{.RouterAS}}
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
{{- if .Interface}}
 neighbor {{.Link}} interface remote-as {{if eq .NodeAS .RouterAS}}internal{{else}}external{{end}}
{{- else}}
 neighbor {{.Node}} remote-as {{.NodeAS}}
{{- end}}
{{- if .Dials}}
 neighbor {{.Node}} timers connect 1
{{- else if not .Interface}}
 neighbor {{.Node}} passive
{{- end}}
{{.Neighbor}}
 address-family ipv4 unicast
  neighbor {{if .Interface}}{{.Link}}{{else}}{{.Node}}{{end}} activate
 exit-address-family
 address-family ipv6 unicast
  neighbor {{if .Interface}}{{.Link}}{{else}}{{.Node}}{{end}} activate
 exit-address-family
`

func (f *frr) start(ctx context.Context, neighbor string) error {
	if err := f.write("bgpd.conf", frrConfig, neighbor); err != nil {
		return err
	}
	for _, name := range []string{"zebra.conf", "bfdd.conf"} {
		if err := os.WriteFile(f.file(name), nil, 0o644); err != nil {
			return err
		}
	}
	// Without this vtysh asks PAM.
	if err := os.WriteFile(f.file("vtysh.conf"), []byte("username root nopassword\n"), 0o644); err != nil {
		return err
	}
	for _, name := range []string{"zebra", "bfdd", "bgpd"} {
		args := []string{
			"-u", "root", "-g", "root", "-A", "127.0.0.1", "-f", f.file(name + ".conf"), "-i", f.file(name + ".pid"),
			"-z", f.file("zserv.api"), "--vty_socket", f.dir, "--log", "stdout", "--log-level", "informational",
		}
		switch name {
		case "bfdd":
			args = append(args, "--bfdctl", f.file("bfdd.sock"))
		case "bgpd":
			args = append(args, "-p", f.settings.Port)
		}
		if err := f.spawn(f.command(ctx, "usr/lib/frr/"+name, args...), name); err != nil {
			return err
		}
		if err := poll(ctx, func() error { _, err := f.vtysh(ctx, name, "show version"); return err }); err != nil {
			return err
		}
	}
	return nil
}

func (f *frr) check(ctx context.Context, neighbor string) (string, error) {
	if err := f.write("bgpd.conf", frrConfig, neighbor); err != nil {
		return "", err
	}
	return f.ask(ctx, "usr/lib/frr/bgpd", "-C", "-u", "root", "-g", "root", "-f", f.file("bgpd.conf"))
}

func (f *frr) vtysh(ctx context.Context, daemon, command string) (string, error) {
	return f.ask(ctx, "usr/bin/vtysh", "--config_dir", f.dir, "--vty_socket", f.dir, "-d", daemon, "-c", command)
}

// show reads what bgpd or bfdd shows as JSON.
func (f *frr) show(ctx context.Context, daemon, command string, into any) error {
	out, err := f.vtysh(ctx, daemon, command)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return nil
}

func (f *frr) state(ctx context.Context) (state, error) {
	var s state
	var neighbors map[string]struct {
		BgpState              string
		BgpTimerHoldTimeMsecs int
		MessageStats          struct{ KeepalivesRecv int }
		GracefulRestartInfo   struct {
			Timers struct{ ReceivedRestartTimer int }
		}
	}
	if err := f.show(ctx, "bgpd", "show bgp neighbors json", &neighbors); err != nil {
		return s, err
	}
	for _, n := range neighbors {
		s.up, s.hold = n.BgpState == "Established", n.BgpTimerHoldTimeMsecs/1000
		s.keepalives, s.restart = n.MessageStats.KeepalivesRecv, n.GracefulRestartInfo.Timers.ReceivedRestartTimer
	}
	var peers []struct {
		Status                 string
		RemoteReceiveInterval  int `json:"remote-receive-interval"`
		RemoteTransmitInterval int `json:"remote-transmit-interval"`
		RemoteMultiplier       int `json:"remote-detect-multiplier"`
	}
	if err := f.show(ctx, "bfdd", "show bfd peers json", &peers); err != nil {
		return s, err
	}
	for _, p := range peers {
		s.bfd = fmt.Sprintf("%s receive %d transmit %d multiplier %d",
			p.Status, p.RemoteReceiveInterval, p.RemoteTransmitInterval, p.RemoteMultiplier)
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		var table struct{ Routes map[string]any }
		if err := f.show(ctx, "bgpd", "show bgp "+family+" unicast json", &table); err != nil {
			return s, err
		}
		for prefix := range table.Routes {
			r, err := f.route(ctx, family, prefix)
			if err != nil {
				return s, err
			}
			s.routes = append(s.routes, r)
		}
	}
	return s, nil
}

func (f *frr) route(ctx context.Context, family, prefix string) (Route, error) {
	var entry struct {
		Paths []struct {
			Aspath            struct{ String string }
			Metric, LocPrf    *int
			Community         struct{ List []string }
			LargeCommunity    struct{ List []string }
			ExtendedCommunity struct{ String string }
			Nexthops          []struct {
				IP   string
				Used bool
			}
		}
	}
	if err := f.show(ctx, "bgpd", "show bgp "+family+" unicast "+prefix+" json", &entry); err != nil {
		return Route{}, err
	}
	if len(entry.Paths) == 0 {
		return Route{}, fmt.Errorf("%s has no path", prefix)
	}
	p := entry.Paths[0]
	r := Route{Prefix: prefix, Path: strings.Replace(p.Aspath.String, "Local", "", 1), Large: p.LargeCommunity.List}
	for _, hop := range p.Nexthops {
		if hop.Used || r.Via == "" {
			r.Via = hop.IP
		}
	}
	if p.Metric != nil {
		r.MED = fmt.Sprint(*p.Metric)
	}
	if p.LocPrf != nil {
		r.Local = fmt.Sprint(*p.LocPrf)
	}
	for _, c := range p.Community.List {
		r.Communities = append(r.Communities, number(c))
	}
	// LB:64513:375000 (3.000 Mbps)
	if text, ok := strings.CutPrefix(p.ExtendedCommunity.String, "LB:"); ok {
		r.Bandwidth, _, _ = strings.Cut(text, " ")
	}
	return r, nil
}
