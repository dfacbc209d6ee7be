package table

import (
	"fmt"
	"testing"
)

// cluster has 100 nodes.
func cluster(nodes int) []Member {
	var members []Member
	for i := range nodes {
		members = append(members, Member{fmt.Sprintf("node-%03d", i), 1 + i%3, false})
	}
	return members
}

// BenchmarkBuild builds all tables of 10 000 Services on 100 nodes, each with endpoints of its own
// on three nodes.
func BenchmarkBuild_10000Services(b *testing.B) {
	nodes := cluster(100)
	var services []Members
	for i := range 10_000 {
		services = append(services, Normalize([]Member{nodes[i%100], nodes[(i/100+i+1)%100], nodes[(i*7+3)%100]}))
	}
	b.ReportAllocs()
	for b.Loop() {
		builder, slots := NewBuilder(), 0
		for _, s := range services {
			slots += len(builder.Build(s).Slots)
		}
		b.ReportMetric(float64(slots*8)/(1<<20), "MiB")
	}
}

// BenchmarkChange is a node that joins, or leaves, one Service of so many nodes.
func BenchmarkChange(b *testing.B) {
	for _, n := range []int{3, 32, 100} {
		b.Run(fmt.Sprint(n, " nodes"), func(b *testing.B) {
			members := cluster(n)
			with, without := Normalize(members), Normalize(members[1:])
			builder := NewBuilder()
			t := builder.Build(with)
			for i := 0; b.Loop(); i++ {
				t = builder.Change(t, []Members{without, with}[i%2])
			}
		})
	}
}

// BenchmarkBuild_one is one table from nothing.
func BenchmarkBuild_one(b *testing.B) {
	for _, n := range []int{3, 32, 100} {
		b.Run(fmt.Sprint(n, " nodes"), func(b *testing.B) {
			members, builder := Normalize(cluster(n)), NewBuilder()
			builder.Build(members) // what nodes have in common is kept
			for b.Loop() {
				builder.Build(members)
			}
		})
	}
}
