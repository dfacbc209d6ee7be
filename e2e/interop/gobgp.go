//go:build linux

package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// gobgp is GoBGP's daemon gobgpd.
type gobgp struct{ machine }

// configure writes the configuration: YAML, into whose neighbor the lines are merged.
func (g *gobgp) configure(neighbor string) error {
	s := g.settings
	base := map[string]any{}
	// In YAML, port would be a number with a fraction.
	text := fmt.Sprintf(`
config: {peer-as: %s}
transport: {config: {passive-mode: %t}}
timers: {config: {connect-retry: 1, idle-hold-time-after-reset: 1}}
afi-safis:
- config: {afi-safi-name: ipv4-unicast}
- config: {afi-safi-name: ipv6-unicast}
`, s.NodeAS, !s.Dials && !s.Interface)
	if err := yaml.Unmarshal([]byte(text), &base); err != nil {
		return err
	}
	if !s.Interface {
		merge(base, map[string]any{
			"config":    map[string]any{"neighbor-address": s.Node},
			"transport": map[string]any{"config": map[string]any{"local-address": s.Router}},
		})
	} else {
		merge(base, map[string]any{"config": map[string]any{"neighbor-interface": routerLink}})
	}
	more := map[string]any{}
	if err := yaml.Unmarshal([]byte(neighbor), &more); err != nil {
		return fmt.Errorf("lines of GoBGP's neighbor: %w", err)
	}
	merge(base, more)
	out, err := yaml.Marshal(map[string]any{
		"global": map[string]any{"config": map[string]any{
			"as": json.RawMessage(s.RouterAS), "router-id": "10.0.0.1", "port": json.RawMessage(s.Port),
		}},
		"neighbors": []any{base},
	})
	if err != nil {
		return err
	}
	return os.WriteFile(g.file("gobgpd.yaml"), out, 0o644)
}

// merge puts values into a map, below those that both have.
func merge(into, from map[string]any) {
	for key, value := range from {
		inner, isMap := value.(map[string]any)
		if old, ok := into[key].(map[string]any); ok && isMap {
			merge(old, inner)
			continue
		}
		into[key] = value
	}
}

func (g *gobgp) flags() []string {
	return []string{"-t", "yaml", "-f", g.file("gobgpd.yaml"), "--api-hosts", "127.0.0.1:50051", "--pprof-disable"}
}

func (g *gobgp) start(ctx context.Context, neighbor string) error {
	if err := g.configure(neighbor); err != nil {
		return err
	}
	if g.settings.Interface {
		// It looks for its neighbor among those that the kernel knows.
		if _, err := g.ask(ctx, "usr/bin/ping", "-c", "1", "fe80::9%"+routerLink); err != nil {
			return err
		}
	}
	if err := g.spawn(g.command(ctx, "usr/bin/gobgpd", g.flags()...), "gobgpd"); err != nil {
		return err
	}
	return poll(ctx, func() error { _, err := g.ask(ctx, "usr/bin/gobgp", "global"); return err })
}

func (g *gobgp) check(ctx context.Context, neighbor string) (string, error) {
	if err := g.configure(neighbor); err != nil {
		return "", err
	}
	return g.ask(ctx, "usr/bin/gobgpd", append(g.flags(), "--dry-run")...)
}

func (g *gobgp) show(ctx context.Context, into any, args ...string) error {
	out, err := g.ask(ctx, "usr/bin/gobgp", append([]string{"-j"}, args...)...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("gobgp %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

var gobgpRestart = regexp.MustCompile(`(?s)graceful-restart:.*?[Rr]emote:.*?restart time ([0-9]+)`)

// gobgpSession is what GoBGP shows of a neighbor.
type gobgpSession struct {
	State struct {
		SessionState int `json:"session_state"`
		Messages     struct {
			Received struct {
				Keepalive int
			}
		}
	}
	Timers struct {
		State struct {
			NegotiatedHoldTime int `json:"negotiated_hold_time"`
		}
	}
}

func (g *gobgp) state(ctx context.Context) (state, error) {
	var s state
	var sessions []gobgpSession
	if err := g.show(ctx, &sessions, "neighbor"); err != nil {
		return s, err
	}
	for _, n := range sessions {
		s.up, s.hold = n.State.SessionState == 6, n.Timers.State.NegotiatedHoldTime // ESTABLISHED
		s.keepalives = n.State.Messages.Received.Keepalive
	}
	if !g.settings.Interface {
		// What is in capabilities is in base64 in JSON.
		text, err := g.ask(ctx, "usr/bin/gobgp", "neighbor", g.settings.Node)
		if err != nil {
			return s, err
		}
		s.restart = first(gobgpRestart, text)
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		var table map[string][]struct {
			Attrs []gobgpAttribute
		}
		if err := g.show(ctx, &table, "global", "rib", "-a", family); err != nil {
			return s, err
		}
		for _, prefix := range slices.Sorted(maps.Keys(table)) {
			r := Route{Prefix: prefix}
			for _, a := range table[prefix][0].Attrs {
				a.into(&r)
			}
			s.routes = append(s.routes, r)
		}
	}
	return s, nil
}

// gobgpAttribute is an attribute of a path.
type gobgpAttribute struct {
	Type        int
	Nexthop     string
	Metric      *int
	Value       json.RawMessage
	Communities []int
	ASPaths     []struct {
		ASNs []int
	} `json:"as_paths"`
}

func (a gobgpAttribute) into(r *Route) {
	switch a.Type {
	case 2:
		for _, segment := range a.ASPaths {
			r.Path = strings.Trim(fmt.Sprint(segment.ASNs), "[]")
		}
	case 3, 14:
		r.Via, _, _ = strings.Cut(a.Nexthop, "%")
	case 4:
		r.MED = fmt.Sprint(*a.Metric)
	case 5:
		r.Local = string(a.Value)
	case 8:
		for _, c := range a.Communities {
			r.Communities = append(r.Communities, fmt.Sprintf("%d:%d", c>>16, c&0xffff))
		}
	case 16:
		var list []struct {
			Type, Subtype int
			Asn           int
			Bandwidth     float64
		}
		if json.Unmarshal(a.Value, &list) == nil && len(list) > 0 {
			r.Bandwidth = fmt.Sprintf("%d:%.0f", list[0].Asn, list[0].Bandwidth)
		}
	case 32:
		var list []struct{ ASN, LocalData1, LocalData2 int }
		if json.Unmarshal(a.Value, &list) == nil {
			for _, c := range list {
				r.Large = append(r.Large, fmt.Sprintf("%d:%d:%d", c.ASN, c.LocalData1, c.LocalData2))
			}
		}
	}
}
