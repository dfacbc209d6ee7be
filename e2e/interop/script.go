//go:build linux

package interop

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"
)

// Daemons are the BGP daemons that are tried.
var Daemons = []string{"frr", "bird", "gobgp", "exabgp", "openbgpd"}

// Script is a txtar archive. Its comment begins with the title, a line "fields: NAME..." with the
// fields of the API that it tries, and settings "NAME: VALUE" that differ from the preset. Text for
// readers may follow, after an empty line. The sections are steps, in this order:
//
//	objects.yaml          what the speaker is told from now on: BGPNeighbors, RouteAnnouncements,
//	                      LoadBalancerPools, Secrets. Without a pool or a RouteAnnouncement of its
//	                      own, a script has one that selects all.
//	want [DAEMON]         what the daemon must come to show, see await; of several wants in a row
//	                      a daemon has its own, or else the one for all
//	router: restart       the daemon is killed, and started again once Berth has noticed
//	berth: replace        the speaker ends, as one that the next one replaces
//	berth: next           the next one begins, with the objects of before
//
// and, wherever they are:
//
//	DAEMON                lines for the neighbor in the daemon's configuration
//	DAEMON: unsupported   why the daemon cannot do this; a "want DAEMON" shows what there is instead
//	DAEMON: refuses TEXT  configuration that the daemon must refuse with TEXT: the proof of the above
type Script struct {
	Name   string
	Title  string
	Fields []string
	// Neighbor has lines of configuration by daemon, Unsupported reasons.
	Neighbor, Unsupported map[string]string
	Refused               map[string]Refusal
	Settings              Settings
	Steps                 []Step
}

// Refusal is configuration that a daemon refuses, and a part of what it says then.
type Refusal struct{ Config, Says string }

// Settings of a script, with their presets.
type Settings struct {
	Router   string // "router": the daemon's address, 10.0.0.1
	Node     string // "node": the node's address as the daemon knows it, 10.0.0.9
	RouterAS string // "router-as": 64512
	NodeAS   string // "node-as": as the daemon knows it, 64513
	Port     string // "port": the daemon's, 179
	Dials    bool   // "dials: yes": the daemon connects to the node, and Berth listens
	Hops     bool   // "hops: 2": a router is between the two, the daemon at 10.1.0.1 and 2001:db8:1::1
	Services string // "services": addresses, 192.0.2.1 2001:db8:a::1
	// Endpoints of the Services on the node, which then are of policy Local ("endpoints").
	Endpoints string
	// BIRDsBFD has more of BIRD's configuration of BFD, which is not the neighbor's ("bird-bfd").
	BIRDsBFD string
	// Interface: the session is over link-local addresses ("interface: yes").
	Interface bool
}

// Step is one thing that is done, or waited for.
type Step struct {
	Kind string // "objects", "want", "router: restart", "berth: replace", "berth: next"
	For  string // daemon of a want; "": all
	Text string
}

// internal reports whether both ends are in one AS.
func (s Settings) internal() bool { return s.RouterAS == s.NodeAS }

// Parse reads a script.
func Parse(path string) (*Script, error) {
	archive, err := txtar.ParseFile(path)
	if err != nil {
		return nil, fmt.Errorf("read script: %w", err)
	}
	s := &Script{
		Name:     strings.TrimSuffix(filepath.Base(path), ".txtar"),
		Neighbor: map[string]string{}, Unsupported: map[string]string{}, Refused: map[string]Refusal{},
		Settings: Settings{
			Router: "10.0.0.1", Node: "10.0.0.9", RouterAS: "64512", NodeAS: "64513", Port: "179",
			Services: "192.0.2.1 2001:db8:a::1",
		},
	}
	header, _, _ := strings.Cut(string(archive.Comment), "\n\n")
	for i, line := range strings.Split(strings.TrimSpace(header), "\n") {
		if i == 0 {
			s.Title = strings.TrimSuffix(line, ".")
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		if err := s.set(name, strings.TrimSpace(value)); err != nil {
			return nil, fmt.Errorf("script %s: %w", path, err)
		}
	}
	for _, f := range archive.Files {
		if err := s.section(f.Name, string(f.Data)); err != nil {
			return nil, fmt.Errorf("script %s: %w", path, err)
		}
	}
	if s.Title == "" || len(s.Fields) == 0 || len(s.Steps) == 0 {
		return nil, fmt.Errorf("script %s: it has no title, no fields or no steps", path)
	}
	return s, nil
}

func (s *Script) set(name, value string) error {
	texts := map[string]*string{
		"router": &s.Settings.Router, "node": &s.Settings.Node, "router-as": &s.Settings.RouterAS,
		"node-as": &s.Settings.NodeAS, "port": &s.Settings.Port, "services": &s.Settings.Services,
		"endpoints": &s.Settings.Endpoints, "bird-bfd": &s.Settings.BIRDsBFD,
	}
	switch text := texts[name]; {
	case name == "fields":
		s.Fields = strings.Fields(value)
	case text != nil:
		*text = value
	case name == "dials":
		s.Settings.Dials = true
	case name == "hops":
		s.Settings.Hops = true
	case name == "interface":
		s.Settings.Interface = true
	default:
		return fmt.Errorf("setting %q is not known", name)
	}
	return nil
}

func (s *Script) section(name, text string) error {
	first, rest, _ := strings.Cut(name, " ")
	daemon := strings.TrimSuffix(first, ":")
	isDaemon := slices.Contains(Daemons, daemon)
	says, refuses := strings.CutPrefix(rest, "refuses ")
	switch {
	case name == "objects.yaml":
		s.Steps = append(s.Steps, Step{Kind: "objects", Text: text})
	case first == "want" && (rest == "" || slices.Contains(Daemons, rest)):
		s.Steps = append(s.Steps, Step{Kind: "want", For: rest, Text: text})
	case name == "router: restart", name == "berth: replace", name == "berth: next":
		s.Steps = append(s.Steps, Step{Kind: name})
	case isDaemon && name == daemon:
		s.Neighbor[daemon] = text
	case isDaemon && rest == "unsupported":
		s.Unsupported[daemon] = strings.Join(strings.Fields(text), " ")
	case isDaemon && refuses:
		s.Refused[daemon] = Refusal{Config: text, Says: says}
	default:
		return fmt.Errorf("section %q is not known", name)
	}
	return nil
}

// StepsFor returns the steps of a daemon: of wants side by side, its own.
func (s *Script) StepsFor(daemon string) []Step {
	var steps []Step
	for i := 0; i < len(s.Steps); {
		end := i + 1
		for s.Steps[i].Kind == "want" && end < len(s.Steps) && s.Steps[end].Kind == "want" {
			end++
		}
		group := s.Steps[i:end]
		own := slices.IndexFunc(group, func(step Step) bool { return step.For == daemon })
		if own < 0 {
			own = slices.IndexFunc(group, func(step Step) bool { return step.For == "" })
		}
		if own >= 0 {
			steps = append(steps, group[own])
		}
		i = end
	}
	return steps
}

// Route is what a daemon has heard of a prefix.
type Route struct {
	Prefix, Via, Path  string
	MED, Local         string // "": none
	Communities, Large []string
	// Bandwidth is AS:bytes-per-second of a link bandwidth community.
	Bandwidth string
}

// text is the route as a script wants it. LOCAL_PREF is for internal sessions; on others some
// daemons show their own preset.
func (r Route) text(internal bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "route %s via %s", r.Prefix, r.Via)
	if r.Path != "" {
		fmt.Fprintf(&b, " path %s", r.Path)
	}
	if r.MED != "" {
		fmt.Fprintf(&b, " med %s", r.MED)
	}
	if internal && r.Local != "" {
		fmt.Fprintf(&b, " local %s", r.Local)
	}
	for _, c := range sorted(r.Communities) {
		fmt.Fprintf(&b, " community %s", c)
	}
	for _, c := range sorted(r.Large) {
		fmt.Fprintf(&b, " large %s", c)
	}
	if r.Bandwidth != "" {
		fmt.Fprintf(&b, " bandwidth %s", r.Bandwidth)
	}
	return b.String()
}

func sorted(list []string) []string { return slices.Sorted(slices.Values(list)) }

// wellKnown are the communities that daemons show by name, without the characters on which they
// differ.
var wellKnown = map[string]string{
	"noexport": "65535:65281", "noadvertise": "65535:65282", "noexportsubconfed": "65535:65283", "localas": "65535:65283",
	"nopeer": "65535:65284", "gracefulshutdown": "65535:0", "blackhole": "65535:666", "acceptown": "65535:1",
}

// number is a community in two numbers, whatever name a daemon has for it.
func number(community string) string {
	return cmp.Or(wellKnown[strings.NewReplacer("_", "", "-", "").Replace(strings.ToLower(community))], community)
}

// Runs reports whether there is something to see of a daemon: always, unless it is only the
// documentation that says what is not supported.
func (s *Script) Runs(daemon string) bool {
	_, unsupported := s.Unsupported[daemon]
	_, refuses := s.Refused[daemon]
	return !unsupported || refuses || slices.ContainsFunc(s.Steps, func(step Step) bool { return step.For == daemon })
}
