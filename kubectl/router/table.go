package router

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-lb/berth/bgp/community"
)

// Table is a table of BGP routes: the paths to each prefix.
type Table map[netip.Prefix][]Path

// Path is a path to a prefix. Its next hop has more than one address if the router shows a global
// and a link-local one.
type Path struct {
	NextHops []netip.Addr
	Attributes
}

// Attributes of a path, as far as the router shows them; nil: it does not. A router that shows them
// has a MED of 0 where the path has none.
type Attributes struct {
	MED, LocalPref *uint32
	// Length is the number of AS in the path.
	Length *int
	// Communities are those that Parse of package community reads, sorted. Others are left out.
	Communities []community.Community
}

// ErrUnknown says which formats are known.
var ErrUnknown = errors.New(`it is no table that is known; give what one of these prints:
  vtysh -c 'show bgp ipv4 unicast json'   (FRR; also ipv6, and without json)
  birdc show route                        (BIRD; also with all)
  gobgp global rib -j                     (GoBGP)`)

// Parse reads a table, or several one after the other. It finds out the format.
func Parse(text []byte) (Table, error) {
	table := Table{}
	trimmed := bytes.TrimSpace(text)
	switch {
	case len(trimmed) == 0:
		return nil, errors.New(
			"it is empty; give what the router prints, such as that of vtysh -c 'show bgp ipv4 unicast json'",
		)
	case trimmed[0] == '{':
		return table, table.readJSON(trimmed)
	case table.readFRR(string(text)), table.readBIRD(string(text)):
		return table, nil
	}
	return nil, ErrUnknown
}

// add adds a path, and returns where it is; of several with the same next hops the first one stays.
func (t Table) add(prefix netip.Prefix, hops ...netip.Addr) *Path {
	prefix = prefix.Masked()
	if i := slices.IndexFunc(t[prefix], func(p Path) bool { return slices.Equal(p.NextHops, hops) }); i >= 0 {
		return &Path{}
	}
	t[prefix] = append(t[prefix], Path{NextHops: hops})
	return &t[prefix][len(t[prefix])-1]
}

// frrPath is a path in FRR's JSON.
type frrPath struct {
	Valid    *bool `json:"valid"`
	NextHops []struct {
		IP string `json:"ip"`
	} `json:"nexthops"`
	Metric    *uint32 `json:"metric"`
	LocalPref *uint32 `json:"locPrf"`
	// Path is the AS path in a table, and ASPath that of a path in detail.
	Path   *string `json:"path"`
	ASPath *struct {
		String string `json:"string"`
	} `json:"aspath"`
	Community, LargeCommunity struct {
		List []string `json:"list"`
	}
}

// attributes returns what FRR shows. Communities are shown in detail only.
func (p frrPath) attributes() Attributes {
	shown := Attributes{LocalPref: p.LocalPref}
	switch {
	case p.ASPath != nil:
		shown.Length = new(len(strings.Fields(strings.Replace(p.ASPath.String, "Local", "", 1))))
		shown.Communities = communities(slices.Concat(p.Community.List, p.LargeCommunity.List))
	case p.Path != nil:
		shown.Length = new(len(strings.Fields(*p.Path)))
	default:
		return shown
	}
	if shown.MED = p.Metric; p.Metric == nil {
		shown.MED = new(uint32)
	}
	return shown
}

var capital = regexp.MustCompile(`[A-Z]`)

// communities reads what routers print; FRR has its own way to write names.
func communities(texts []string) []community.Community {
	all := []community.Community{}
	for _, text := range texts {
		text = capital.ReplaceAllStringFunc(text, func(c string) string { return "-" + strings.ToLower(c) })
		if text == "local-as" {
			text = "no-export-subconfed" // RFC 1997's name of it
		}
		if c, err := community.Parse(text); err == nil {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, community.Compare)
	return slices.Compact(all)
}

// gobgpPath is a path in GoBGP's JSON.
type gobgpPath struct {
	Attrs []struct {
		NextHop string `json:"nexthop"`
	} `json:"attrs"`
}

func (t Table) readJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	for {
		var found map[string]json.RawMessage
		err := d.Decode(&found)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("it is not whole as JSON: %w", err)
		}
		if err := t.readObject(found); err != nil {
			return err
		}
	}
}

func (t Table) readObject(found map[string]json.RawMessage) error {
	if routes, ok := found["routes"]; ok {
		var of map[string]json.RawMessage
		if json.Unmarshal(routes, &of) != nil {
			return ErrUnknown
		}
		for text, paths := range of {
			prefix, err := netip.ParsePrefix(text)
			if err != nil || !t.readFRRPaths(prefix, paths) {
				return ErrUnknown
			}
		}
		return nil
	}
	if paths, ok := found["paths"]; ok { // of one prefix
		var text string
		if json.Unmarshal(found["prefix"], &text) != nil {
			return ErrUnknown
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil || !t.readFRRPaths(prefix, paths) {
			return ErrUnknown
		}
		return nil
	}
	_, frr := found["vrfId"]
	for text, raw := range found {
		prefix, err := netip.ParsePrefix(text)
		var paths []gobgpPath
		if err != nil || json.Unmarshal(raw, &paths) != nil {
			if frr {
				continue
			}
			return ErrUnknown
		}
		for _, p := range paths {
			var hops []netip.Addr
			for _, a := range p.Attrs {
				if hop, err := netip.ParseAddr(a.NextHop); err == nil {
					hops = append(hops, hop.Unmap())
				}
			}
			t.add(prefix, hops...)
		}
	}
	return nil
}

func (t Table) readFRRPaths(prefix netip.Prefix, raw json.RawMessage) bool {
	var paths []frrPath
	if json.Unmarshal(raw, &paths) != nil {
		var one struct{ Paths []frrPath }
		if json.Unmarshal(raw, &one) != nil {
			return false
		}
		paths = one.Paths
	}
	for _, p := range paths {
		if p.Valid != nil && !*p.Valid || p.Valid == nil && p.NextHops == nil {
			continue // in detail, the first one is about the prefix
		}
		var hops []netip.Addr
		for _, h := range p.NextHops {
			if hop, err := netip.ParseAddr(h.IP); err == nil {
				hops = append(hops, hop.Unmap())
			}
		}
		t.add(prefix, hops...).Attributes = p.attributes()
	}
	return true
}

// readFRR reads what FRR prints for people, and reports whether it is that.
func (t Table) readFRR(text string) bool {
	known := false
	column := -1 // of prefixes
	var prefix netip.Prefix
	waits := false // for a next hop, which is on the next line
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(line, "No BGP prefixes displayed") || strings.HasPrefix(line, "BGP table version is") {
			known = true
		}
		if i := strings.Index(line, "Network "); i >= 0 && strings.Contains(line, "Next Hop") {
			column, known, prefix = i, true, netip.Prefix{}
			continue
		}
		if column < 0 || len(line) <= column {
			if strings.TrimSpace(line) == "" {
				waits = false
			}
			continue
		}
		status, rest := line[:column], line[column:]
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			continue
		}
		if !strings.HasPrefix(rest, " ") {
			p, err := netip.ParsePrefix(fields[0])
			if err != nil {
				column = -1 // below the table
				continue
			}
			prefix, fields = p, fields[1:]
			waits = strings.Contains(status, "*") && len(fields) == 0
			if len(fields) == 0 {
				continue
			}
		}
		hop, err := netip.ParseAddr(fields[0])
		if err == nil && prefix.IsValid() && (waits || strings.Contains(status, "*")) {
			t.add(prefix, hop.Unmap())
		}
		waits = false
	}
	return known
}

// readBIRD reads what BIRD prints, and reports whether it is that.
func (t Table) readBIRD(text string) bool {
	known := false
	var prefix netip.Prefix
	var last *Path // whose attributes come, if it is printed with all
	name := ""     // of the attribute that may go on in the next line
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if fields[0] == "BIRD" && len(fields) > 2 && fields[2] == "ready." ||
			fields[0] == "Table" && len(fields) == 2 {
			known = true
			continue
		}
		if p, err := netip.ParsePrefix(
			fields[0],
		); err == nil &&
			(strings.Contains(line, "[") || strings.Contains(line, " via ")) {
			prefix, known = p, true
		}
		for i, f := range fields[:len(fields)-1] {
			hop, err := netip.ParseAddr(fields[i+1])
			if f == "via" && err == nil && prefix.IsValid() {
				last = t.add(prefix, hop.Unmap())
			}
		}
		if last != nil {
			name = last.readBIRD(name, strings.TrimSpace(line))
		}
	}
	return known
}

var birdGroup = regexp.MustCompile(`\(([0-9, ]+)\)`)

// readBIRD reads a line with an attribute, and returns its name. Long lists go on in the next line,
// without a name. BIRD 3 writes bgp_med for BGP.med.
func (p *Path) readBIRD(before, line string) (name string) {
	name, value, named := strings.Cut(line, ":")
	if name = strings.ReplaceAll(strings.ToLower(name), ".", "_"); !named {
		name, value = before, line
	}
	number := func() *uint32 {
		n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32)
		if err != nil {
			return nil
		}
		return new(uint32(n))
	}
	switch name {
	case "bgp_as_path", "bgp_path":
		p.Length = new(len(strings.Fields(value)))
		if p.Communities == nil {
			p.Communities = []community.Community{}
		}
		if p.MED == nil {
			p.MED = new(uint32)
		}
	case "bgp_med":
		p.MED = number()
	case "bgp_local_pref":
		p.LocalPref = number()
	case "bgp_community", "bgp_large_community":
		var texts []string
		for _, c := range p.Communities {
			texts = append(texts, c.String())
		}
		for _, m := range birdGroup.FindAllStringSubmatch(value, -1) {
			texts = append(texts, strings.ReplaceAll(strings.ReplaceAll(m[1], " ", ""), ",", ":"))
		}
		p.Communities = communities(texts)
	}
	return name
}
