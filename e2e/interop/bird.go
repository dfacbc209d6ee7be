//go:build linux

package interop

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// bird is BIRD 2.
type bird struct{ machine }

const birdConfig = `
log stderr all;
router id 10.0.0.1;
protocol device {}
protocol direct { ipv4; ipv6; }
protocol bfd { interface "*" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; {{.BIRDsBFD}} }; }
protocol bgp node {
  debug { states, packets };
{{- if .Interface}}
  local fe80::1 as {{.RouterAS}}; neighbor fe80::9 as {{.NodeAS}}; interface "{{.Link}}";
{{- else}}
  local {{.Router}} port {{.Port}} as {{.RouterAS}}; neighbor {{.Node}} as {{.NodeAS}};
{{- end}}
{{- if .Dials}}
  connect delay time 1; connect retry time 1; error wait time 1, 2;
{{- else if not .Interface}}
  passive;
{{- end}}
{{.Neighbor}}
  ipv4 { import all; export none; {{if .Interface}}extended next hop on;{{end}} };
  ipv6 { import all; export none; };
}
`

func (b *bird) start(ctx context.Context, neighbor string) error {
	if err := b.write("bird.conf", birdConfig, neighbor); err != nil {
		return err
	}
	err := b.spawn(b.command(ctx, "usr/sbin/bird", "-f", "-c", b.file("bird.conf"), "-s", b.file("bird.ctl")), "bird")
	if err != nil {
		return err
	}
	return poll(ctx, func() error { _, err := b.birdc(ctx, "show status"); return err })
}

func (b *bird) check(ctx context.Context, neighbor string) (string, error) {
	if err := b.write("bird.conf", birdConfig, neighbor); err != nil {
		return "", err
	}
	return b.ask(ctx, "usr/sbin/bird", "-p", "-c", b.file("bird.conf"))
}

func (b *bird) birdc(ctx context.Context, command string) (string, error) {
	return b.ask(ctx, "usr/sbin/birdc", append([]string{"-s", b.file("bird.ctl")}, strings.Fields(command)...)...)
}

var (
	birdHold    = regexp.MustCompile(`Hold timer: +[0-9.]+/([0-9]+)`)
	birdRestart = regexp.MustCompile(`(?s)Neighbor capabilities.*Restart time: ([0-9]+)`)
	birdBFD     = regexp.MustCompile(`(?m)^\S+ +\S+ +(Up|Down|Init|AdminDown) +\S+ +([0-9.]+) +([0-9.]+)`)
	birdPrefix  = regexp.MustCompile(`^([0-9a-f:.]+/[0-9]+) `)
	birdUnknown = regexp.MustCompile(`\(unknown 0x4004, ([0-9]+), ([0-9]+)\)`)
	birdGroups  = regexp.MustCompile(`\(([0-9, ]+)\)`)
)

func (b *bird) state(ctx context.Context) (state, error) {
	var s state
	protocol, err := b.birdc(ctx, "show protocols all node")
	if err != nil {
		return s, err
	}
	s.up = strings.Contains(protocol, "BGP state:          Established")
	s.hold, s.restart = first(birdHold, protocol), first(birdRestart, protocol)
	log, err := os.ReadFile(b.file("bird.log"))
	if err != nil {
		return s, err
	}
	s.keepalives = strings.Count(string(log), "node: Got KEEPALIVE")
	sessions, err := b.birdc(ctx, "show bfd sessions")
	if err != nil {
		return s, err
	}
	if m := birdBFD.FindStringSubmatch(sessions); m != nil {
		s.bfd = fmt.Sprintf("%s interval %s timeout %s", m[1], m[2], m[3])
	}
	table, err := b.birdc(ctx, "show route all protocol node")
	if err != nil {
		return s, err
	}
	s.routes = birdRoutes(table)
	return s, nil
}

// first returns the number that a pattern finds.
func first(pattern *regexp.Regexp, text string) int {
	m := pattern.FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1]) // the pattern has digits only
	return n
}

// birdRoutes reads what `show route all` prints.
func birdRoutes(table string) []Route {
	var routes []Route
	for line := range strings.Lines(table) {
		if m := birdPrefix.FindStringSubmatch(line); m != nil {
			routes = append(routes, Route{Prefix: m[1]})
			continue
		}
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || len(routes) == 0 {
			continue
		}
		r := &routes[len(routes)-1]
		switch name {
		case "BGP.as_path":
			r.Path = strings.TrimSpace(value)
		case "BGP.next_hop":
			r.Via, _, _ = strings.Cut(strings.TrimPrefix(value, ":: "), " ") // before a link-local one alone
		case "BGP.med":
			r.MED = value
		case "BGP.local_pref":
			r.Local = value
		case "BGP.community":
			for _, m := range birdGroups.FindAllStringSubmatch(value, -1) {
				r.Communities = append(r.Communities, strings.ReplaceAll(m[1], ",", ":"))
			}
		case "BGP.large_community":
			for _, m := range birdGroups.FindAllStringSubmatch(value, -1) {
				r.Large = append(r.Large, strings.ReplaceAll(m[1], ", ", ":"))
			}
		case "BGP.ext_community":
			if m := birdUnknown.FindStringSubmatch(value); m != nil {
				as, _ := strconv.ParseUint(m[1], 10, 16) // the pattern has digits only
				rate, _ := strconv.ParseUint(m[2], 10, 32)
				r.Bandwidth = fmt.Sprintf("%d:%.0f", as, math.Float32frombits(uint32(rate)))
			}
		}
	}
	return routes
}

// bandwidth reads a link bandwidth community: "" if it is another.
func bandwidth(community []byte) string {
	if len(community) != 8 || community[0]&^0x40 != 0 || community[1] != 4 {
		return ""
	}
	rate := math.Float32frombits(binary.BigEndian.Uint32(community[4:]))
	return fmt.Sprintf("%d:%.0f", binary.BigEndian.Uint16(community[2:]), rate)
}
