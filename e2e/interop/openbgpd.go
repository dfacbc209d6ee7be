//go:build linux

package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// openbgpd is the portable OpenBGPD.
type openbgpd struct{ machine }

const openbgpdConfig = `
AS {{.RouterAS}}
router-id 10.0.0.1
fib-update no
listen on {{if .Interface}}fe80::1%{{.Link}}{{else}}{{.Router}}{{end}} port {{.Port}}
{{- if .Dials}}
connect-retry 1
{{- end}}
neighbor {{if .Interface}}fe80::9%{{.Link}}{{else}}{{.Node}}{{end}} {
  remote-as {{.NodeAS}}
{{- if not .Dials}}
  passive
{{- end}}
  announce IPv4 unicast
  announce IPv6 unicast
{{.Neighbor}}
}
allow from any
`

func (o *openbgpd) start(ctx context.Context, neighbor string) error {
	if err := o.write("bgpd.conf", openbgpdConfig, neighbor); err != nil {
		return err
	}
	if err := o.spawn(o.command(ctx, "usr/sbin/bgpd", "-d", "-v", "-f", o.file("bgpd.conf")), "bgpd"); err != nil {
		return err
	}
	return poll(ctx, func() error { _, err := o.ask(ctx, "usr/sbin/bgpctl", "show", "summary"); return err })
}

func (o *openbgpd) check(ctx context.Context, neighbor string) (string, error) {
	if err := o.write("bgpd.conf", openbgpdConfig, neighbor); err != nil {
		return "", err
	}
	return o.ask(ctx, "usr/sbin/bgpd", "-n", "-f", o.file("bgpd.conf"))
}

func (o *openbgpd) show(ctx context.Context, into any, args ...string) error {
	out, err := o.ask(ctx, "usr/sbin/bgpctl", append([]string{"-j", "show"}, args...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("bgpctl show %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

func (o *openbgpd) state(ctx context.Context) (state, error) {
	var s state
	var sessions struct {
		Neighbors []struct {
			State string
			Stats struct {
				Message struct {
					Received struct{ Keepalives int }
				}
			}
			Session struct {
				Holdtime     int
				Capabilities struct {
					Remote struct {
						GracefulRestart struct{ Timeout int } `json:"graceful_restart"`
					}
				}
			}
		}
	}
	if err := o.show(ctx, &sessions, "neighbor"); err != nil {
		return s, err
	}
	for _, n := range sessions.Neighbors {
		s.up, s.hold = n.State == "Established", n.Session.Holdtime
		s.keepalives = n.Stats.Message.Received.Keepalives
		s.restart = n.Session.Capabilities.Remote.GracefulRestart.Timeout
	}
	var table struct {
		Rib []struct {
			Prefix      string
			ASPath      string `json:"aspath"`
			ExitNexthop string `json:"exit_nexthop"`
			LocalPref   int    `json:"localpref"`
			Metric      int
			Communities []string
			Large       []string `json:"large_communities"`
			Extended    []string `json:"extended_communities"`
		}
	}
	if err := o.show(ctx, &table, "rib", "detail"); err != nil {
		return s, err
	}
	for _, entry := range table.Rib {
		r := Route{
			Prefix: entry.Prefix, Via: entry.ExitNexthop, Path: entry.ASPath, Large: entry.Large,
			Local: strconv.Itoa(entry.LocalPref),
		}
		if a, err := netip.ParseAddr(entry.ExitNexthop); err == nil {
			r.Via = a.WithZone("").String()
		}
		if entry.Metric != 0 {
			r.MED = strconv.Itoa(entry.Metric)
		}
		for _, c := range entry.Communities {
			r.Communities = append(r.Communities, number(c))
		}
		for _, c := range entry.Extended {
			r.Bandwidth = c
		}
		s.routes = append(s.routes, r)
	}
	return s, nil
}
