package router

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// lines returns the table as text, in order.
func (t Table) lines() string {
	var all []string
	for _, prefix := range slices.SortedFunc(maps.Keys(t), netip.Prefix.Compare) {
		for _, path := range t[prefix] {
			var hops []string
			for _, hop := range path.NextHops {
				hops = append(hops, hop.String())
			}
			all = append(all, prefix.String()+" "+strings.Join(hops, ","))
		}
	}
	return strings.Join(all, "\n")
}

const frrJSON = `{"vrfId":0,"vrfName":"default","tableVersion":3,"routerId":"172.30.0.1","defaultLocPrf":100,"localAS":64512,
 "routes":{"172.30.0.200/32":[
  {"valid":true,"bestpath":true,"pathFrom":"external","nexthops":[{"ip":"172.30.0.11","afi":"ipv4","used":true}]},
  {"valid":true,"multipath":true,"nexthops":[{"ip":"172.30.0.12","afi":"ipv4"}]},
  {"valid":false,"nexthops":[{"ip":"172.30.0.13","afi":"ipv4"}]}]}}
{"vrfId":0,"routes":{"fd00::200/128":[{"valid":true,"nexthops":[
  {"ip":"fd00::11","afi":"ipv6","scope":"global"},{"ip":"fe80::1","afi":"ipv6","scope":"link-local"}]}]}}`

const frrText = `BGP table version is 3, local router ID is 172.30.0.1, vrf id 0
Default local pref 100, local AS 64512
Status codes:  s suppressed, d damped, h history, u unsorted, * valid, > best, = multipath,
               i internal, r RIB-failure, S Stale, R Removed

     Network          Next Hop            Metric LocPrf Weight Path
 *>  172.30.0.200/32  172.30.0.11                            0 64513 i
 *=                   172.30.0.12                            0 64513 i
     172.30.0.201/32  172.30.0.13                            0 64513 i
 *>  fd00:0:0:1234:5678::200/128
                      fd00::11                               0 64513 i

Displayed  3 routes and 4 total paths
`

const birdText = `BIRD 2.17.1 ready.
Table master4:
172.30.0.200/32      unicast [n1 10:00:00.000] * (100) [AS64513i]
	via 172.30.0.11 on eth0
	Type: BGP univ
	BGP.next_hop: 172.30.0.11
                     unicast [n2 10:00:00.000] (100) [AS64513i]
	via 172.30.0.12 on eth0
`

const gobgpJSON = `{"172.30.0.200/32":[{"nlri":{"prefix":"172.30.0.200/32"},"age":1,"best":true,
 "attrs":[{"type":1,"value":0},{"type":2,"as_paths":[]},{"type":3,"nexthop":"172.30.0.11"}]}]}`

func TestTablesOfRoutersAreRead(t *testing.T) {
	const both = "172.30.0.200/32 172.30.0.11\n172.30.0.200/32 172.30.0.12"
	for name, c := range map[string]struct{ text, want string }{
		"FRR as JSON":       {frrJSON, both + "\nfd00::200/128 fd00::11,fe80::1"},
		"FRR, one prefix":   {`{"prefix":"172.30.0.200/32","paths":[{"valid":true,"nexthops":[{"ip":"172.30.0.11"}]}]}`, "172.30.0.200/32 172.30.0.11"},
		"FRR for people":    {frrText, both + "\nfd00::1234:5678:0:0:200/128 fd00::11"},
		"FRR with nothing":  {"No BGP prefixes displayed, 0 exist\n", ""},
		"FRR JSON, nothing": {`{"vrfId":0,"routes":{}}`, ""},
		"BIRD":              {birdText, both},
		"BIRD 1":            {"BIRD 1.6.8 ready.\n172.30.0.200/32    via 172.30.0.11 on eth0 [n1 10:00:00] * (100) [AS64513i]\n", "172.30.0.200/32 172.30.0.11"},
		"GoBGP":             {gobgpJSON, "172.30.0.200/32 172.30.0.11"},
	} {
		t.Run(name, func(t *testing.T) {
			table, err := Parse([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if got := table.lines(); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// attributes writes what is shown of a path.
func (a Attributes) line() string {
	number := func(n *uint32) string {
		if n == nil {
			return "-"
		}
		return fmt.Sprint(*n)
	}
	length := "-"
	if a.Length != nil {
		length = fmt.Sprint(*a.Length)
	}
	communities := "-"
	if a.Communities != nil {
		communities = fmt.Sprint(a.Communities)
	}
	return strings.Join([]string{number(a.MED), number(a.LocalPref), length, communities}, " ")
}

func TestAttributesAreRead(t *testing.T) {
	const bird = "BIRD 2.17.1 ready.\nTable master4:\n" +
		"172.30.0.200/32      unicast [n1 10:00:00.000] * (100) [AS64513i]\n\tvia 172.30.0.11 on eth0\n\tType: BGP univ\n"
	for name, c := range map[string]struct{ text, want string }{
		"FRR": {
			`{"routes":{"172.30.0.200/32":[{"valid":true,"metric":50,"path":"64513 64513","nexthops":[{"ip":"172.30.0.11"}]}]}}`,
			"50 - 2 -",
		},
		"FRR without MED": {
			`{"routes":{"172.30.0.200/32":[{"valid":true,"locPrf":200,"path":"","nexthops":[{"ip":"172.30.0.11"}]}]}}`,
			"0 200 0 -",
		},
		"FRR in detail": {
			`{"routes":{"172.30.0.200/32":[{"prefix":"172.30.0.200/32","version":1},{"aspath":{"string":"Local","length":0},"locPrf":100,"valid":true,` +
				`"community":{"string":"64512:7 no-export local-AS","list":["64512:7","noExport","localAs"]},` +
				`"largeCommunity":{"list":["64512:1:2"]},"nexthops":[{"ip":"172.30.0.11"}]}]}}`,
			"0 100 0 [64512:7 65535:65281 65535:65283 64512:1:2]",
		},
		"BIRD with all": {
			bird + "\tBGP.origin: IGP\n\tBGP.as_path: 64513 64513\n\tBGP.next_hop: 172.30.0.11\n\tBGP.med: 50\n" +
				"\tBGP.local_pref: 100\n\tBGP.community: (64512,7) (65535,65281)\n\t(64512,8)\n" +
				"\tBGP.large_community: (64512, 1, 2)\n",
			"50 100 2 [64512:7 64512:8 65535:65281 64512:1:2]",
		},
		"BIRD 3 with all": {bird + "\tbgp_origin: IGP\n\tbgp_path: 64513\n\tbgp_local_pref: 100\n", "0 100 1 []"},
		"BIRD":            {bird, "- - - -"},
		"FRR for people":  {frrText, "- - - -"},
	} {
		t.Run(name, func(t *testing.T) {
			table, err := Parse([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			paths := table[netip.MustParsePrefix("172.30.0.200/32")]
			if len(paths) == 0 || paths[0].line() != c.want {
				t.Errorf("got %+v, want %s", paths, c.want)
			}
		})
	}
}

func TestWhatIsNoTableIsRefused(t *testing.T) {
	for _, text := range []string{
		"hello", `{"a": 1}`, `{"routes": 3}`, `{"routes":{"x":[]}}`, "% Unknown command: show",
	} {
		if _, err := Parse([]byte(text)); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"", " \n", `{"routes":`} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{frrJSON, frrText, birdText, gobgpJSON, "{}", "x"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		table, err := Parse(text)
		if err != nil {
			return
		}
		for prefix, paths := range table {
			if prefix != prefix.Masked() || len(paths) == 0 {
				t.Errorf("%v: %v", prefix, paths)
			}
		}
	})
}
