package main

import (
	"strings"
	"testing"
)

func TestWrite(t *testing.T) {
	fields := map[string][]string{"BGPNeighbor": {"bfd.multiplier", "port", "vrf"}}
	scripts := []script{
		{name: "bfd", title: "BFD", digest: "aa", fields: []string{"bfd.multiplier"}},
		{name: "port", title: "A port", digest: "bb", fields: []string{"port"}},
	}
	recorded := results{Scripts: []result{
		{Name: "bfd", Digest: "aa", Cells: map[string]outcome{
			"frr":   {Works: true},
			"bird":  {Reason: "it has none", Seen: true},
			"gobgp": {Reason: "it has none", Refused: "what is bfd?"},
		}},
		{Name: "port", Digest: "the script was another one", Cells: map[string]outcome{"frr": {Works: true}}},
	}}
	page, err := write(recorded, fields, scripts)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| `bfd.multiplier` | [BFD](../../e2e/interop/testdata/bfd.txtar) | works | no (1) | no (2) | not tried | not tried |\n",
		"| `port` | [A port](../../e2e/interop/testdata/port.txtar) | not tried | not tried | not tried | not tried | not tried |\n",
		"| `vrf` | | not tried | not tried | not tried | not tried | not tried |\n",
		"1. BIRD: it has none. Seen here.\n2. GoBGP: it has none. It refuses the configuration: `what is bfd?`.\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q:\n%s", want, page)
		}
	}
	scripts[0].fields = []string{"bdf.multiplier"}
	if _, err := write(recorded, fields, scripts); err == nil {
		t.Error("a field that the API does not have was accepted")
	}
}

func TestRead(t *testing.T) {
	s, err := read("bfd", []byte("BFD.\nfields: a b.c\nhops: 2\n\n-- want --\n"))
	if err != nil || s.title != "BFD" || strings.Join(s.fields, ",") != "a,b.c" {
		t.Errorf("script %+v, %v", s, err)
	}
	if _, err := read("bfd", []byte("BFD\n\n-- want --\n")); err == nil {
		t.Error("a script without fields was accepted")
	}
}
