package router

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// Table is a table of BGP routes: the paths to each prefix.
type Table map[netip.Prefix][]Path

// Path is a path to a prefix. Its next hop has more than one address if the router shows a global
// and a link-local one.
type Path struct{ NextHops []netip.Addr }

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

func (t Table) add(prefix netip.Prefix, hops ...netip.Addr) {
	prefix = prefix.Masked()
	path := Path{NextHops: hops}
	if slices.ContainsFunc(t[prefix], func(p Path) bool { return slices.Equal(p.NextHops, hops) }) {
		return
	}
	t[prefix] = append(t[prefix], path)
}

// frrPath is a path in FRR's JSON.
type frrPath struct {
	Valid    *bool `json:"valid"`
	NextHops []struct {
		IP string `json:"ip"`
	} `json:"nexthops"`
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
		if p.Valid != nil && !*p.Valid {
			continue
		}
		var hops []netip.Addr
		for _, h := range p.NextHops {
			if hop, err := netip.ParseAddr(h.IP); err == nil {
				hops = append(hops, hop.Unmap())
			}
		}
		t.add(prefix, hops...)
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
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if fields[0] == "BIRD" && len(fields) > 2 && fields[2] == "ready." || fields[0] == "Table" && len(fields) == 2 {
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
				t.add(prefix, hop.Unmap())
			}
		}
	}
	return known
}
