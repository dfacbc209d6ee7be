package soak

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLeaks(t *testing.T) {
	begin := Census{
		{What: Memory, Where: "speaker@n1"}:     60,
		{What: Goroutines, Where: "speaker@n1"}: 100,
		{What: "nft elements", Where: "n1"}:     12,
		{What: "L2Owner", Where: "the API"}:     10,
	}
	for _, c := range []struct {
		name string
		end  Census
		want []string
	}{
		{
			name: "nothing grew by more than it may",
			end: Census{
				{What: Memory, Where: "speaker@n1"}:     114,
				{What: Goroutines, Where: "speaker@n1"}: 140,
				{What: "nft elements", Where: "n1"}:     11,
				{What: "L2Owner", Where: "the API"}:     10,
			},
		},
		{
			name: "everything leaks",
			end: Census{
				{What: Memory, Where: "speaker@n1"}:     115,
				{What: Goroutines, Where: "speaker@n1"}: 141,
				{What: "nft elements", Where: "n1"}:     13,
				{What: "routes", Where: "n2"}:           1,
			},
			want: []string{
				"goroutines of speaker@n1: 141, and 100 at the beginning",
				"memory, MiB of speaker@n1: 115, and 60 at the beginning",
				"nft elements of n1: 13, and 12 at the beginning",
				"routes of n2: 1, and 0 at the beginning",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Leaks(begin, c.end)); diff != "" {
				t.Error(diff)
			}
			if lines := strings.Count(Table(begin, c.end), "\n"); lines < 5 {
				t.Errorf("the table has %d lines", lines)
			}
		})
	}
}

func TestCensus_AddRuleset(t *testing.T) {
	const text = `{"nftables": [
  {"metainfo": {"version": "1.0.6"}},
  {"table": {"family": "inet", "name": "berth"}},
  {"set": {"family": "inet", "name": "allowed", "table": "berth", "type": ["ipv4_addr", "inet_service"],
    "elem": [{"concat": ["192.0.2.1", 80]}, {"concat": ["192.0.2.2", 80]}]}},
  {"set": {"family": "inet", "name": "empty", "table": "berth", "type": "ipv4_addr"}},
  {"map": {"family": "inet", "name": "marks", "table": "berth-pods", "type": "ipv4_addr", "map": "mark",
    "elem": [["192.0.2.1", 7]]}},
  {"chain": {"family": "inet", "table": "berth", "name": "input"}},
  {"rule": {"family": "inet", "table": "berth", "chain": "input", "expr": [{"drop": null}]}},
  {"rule": {"family": "ip", "table": "kube-proxy", "chain": "services", "expr": []}},
  {"set": {"family": "ip", "name": "ips", "table": "kube-proxy", "elem": ["192.0.2.9"]}}]}`
	c := Census{}
	if err := c.AddRuleset([]byte(text), "n1"); err != nil {
		t.Fatal(err)
	}
	want := Census{
		{What: "nft elements of berth", Where: "n1"}:      2,
		{What: "nft elements of berth-pods", Where: "n1"}: 1,
		{What: "nft rules of berth", Where: "n1"}:         1,
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Error(diff)
	}
	if err := c.AddRuleset([]byte("no"), "n1"); err == nil {
		t.Error("what is no JSON was read")
	}
}

func TestMetric(t *testing.T) {
	const text = "# TYPE go_goroutines gauge\ngo_goroutines 87\nprocess_virtual_memory_bytes 1.36e+09\n"
	for _, c := range []struct {
		name  string
		want  float64
		found bool
	}{
		{name: "go_goroutines", want: 87, found: true},
		{name: "process_virtual_memory_bytes", want: 1.36e9, found: true},
		{name: "go_threads"},
	} {
		if value, found := Metric(text, c.name); value != c.want || found != c.found {
			t.Errorf("%s is %g, %t, want %g, %t", c.name, value, found, c.want, c.found)
		}
	}
}
