package ipvs

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func at(port uint16) Frontend {
	return Frontend{Address: netip.MustParseAddr("192.0.2.1"), Port: port, Protocol: TCP}
}

// backends makes real servers 10.0.0.N:8080 from "N" or "N*weight".
func backends(list string) []RealServer {
	var all []RealServer
	for _, word := range strings.Fields(list) {
		var n, weight uint32
		if _, err := fmt.Sscanf(word, "%d*%d", &n, &weight); err != nil {
			weight = 1
			if _, err := fmt.Sscan(word, &n); err != nil {
				panic(err)
			}
		}
		all = append(all, RealServer{Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), Port: 8080, Weight: weight})
	}
	return all
}

func server(scheduler, list string) VirtualServer {
	return VirtualServer{Settings{Scheduler: scheduler}, backends(list)}
}

func everywhere(Frontend) bool { return true }

func TestDiff(t *testing.T) {
	const (
		vs = "TCP 192.0.2.1:80"
	)
	for _, test := range []struct {
		name            string
		desired, actual Table
		want            []string
	}{
		{
			name: "nothing",
		},
		{
			name:    "nothing to do",
			desired: Table{at(80): server("rr", "1 2")},
			actual:  Table{at(80): server("rr", "2 1")},
		},
		{
			name:    "the first of a hashing list is created last",
			desired: Table{at(80): server("mh", "2 1")},
			want: []string{
				"create virtual server " + vs + " (scheduler mh)",
				"create real server 10.0.0.2:8080 of " + vs,
				"create real server 10.0.0.1:8080 of " + vs,
			},
		},
		{
			name:    "new ones before old ones go",
			desired: Table{at(80): server("rr", "1 3")},
			actual:  Table{at(80): server("rr", "2 1")},
			want:    []string{"create real server 10.0.0.3:8080 of " + vs, "delete real server 10.0.0.2:8080 of " + vs},
		},
		{
			name:    "a weight",
			desired: Table{at(80): server("wrr", "1*5 2")},
			actual:  Table{at(80): server("wrr", "1 2")},
			want:    []string{"update real server 10.0.0.1:8080 of " + vs},
		},
		{
			name:    "settings",
			desired: Table{at(80): server("lc", "1")},
			actual:  Table{at(80): server("rr", "1")},
			want:    []string{"update virtual server " + vs + " (scheduler lc)"},
		},
		{
			name:   "one that is not desired",
			actual: Table{at(80): server("rr", "1")},
			want:   []string{"delete virtual server " + vs},
		},
		{
			name:    "one that leaves a hashing list",
			desired: Table{at(80): server("mh", "1 3")},
			actual:  Table{at(80): server("mh", "1 2 3")},
			want:    []string{"delete real server 10.0.0.2:8080 of " + vs},
		},
		{
			name:    "one of weight 0, by destination's hash",
			desired: Table{at(80): server("dh", "1 2*0 3")},
			actual:  Table{at(80): server("dh", "1 2 3")},
			want:    []string{"delete real server 10.0.0.2:8080 of " + vs},
		},
		{
			name:    "all of weight 0, by destination's hash",
			desired: Table{at(80): server("dh", "1*0 2*0")},
			actual:  Table{at(80): server("dh", "1*0 2*0")},
		},
		{
			name:    "a hashing list in disorder: who stands right stays",
			desired: Table{at(80): server("mh", "1 2 3 4")},
			actual:  Table{at(80): server("mh", "3 1 4 2")},
			want:    []string{"move real server 10.0.0.2:8080 of " + vs, "move real server 10.0.0.1:8080 of " + vs},
		},
		{
			name:    "order is nothing to round robin",
			desired: Table{at(80): server("rr", "1 2 3 4")},
			actual:  Table{at(80): server("rr", "3 1 4 2")},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			operations, problems := Diff(test.desired, test.actual, everywhere)
			var got []string
			for _, o := range operations {
				got = append(got, o.String())
			}
			if diff := cmp.Diff(test.want, got); diff != "" || len(problems) > 0 {
				t.Errorf("problems %v; operations (-want +got):\n%s", problems, diff)
			}
		})
	}
}

func TestDiff_draining(t *testing.T) {
	desired := server("rr", "1*7 2*7")
	desired.RealServers[0].Draining = true
	operations, _ := Diff(Table{at(80): desired}, Table{at(80): server("rr", "1*7 2*7")}, everywhere)
	want := []Operation{{Kind: UpdateRealServer, Frontend: at(80), RealServer: backends("1*0")[0]}}
	if !slices.Equal(operations, want) {
		t.Errorf("operations %v, want %v", operations, want)
	}
}

func TestDiff_refused(t *testing.T) {
	good := server("rr", "1")
	for _, test := range []struct {
		f      Frontend
		change func(*VirtualServer)
		want   string
	}{
		{
			f:    Frontend{Address: at(80).Address, Protocol: TCP},
			want: "virtual server TCP 192.0.2.1:0: port 0 is not 1 to 65535",
		},
		{
			f:    Frontend{Address: at(80).Address, Port: 80, Protocol: 1},
			want: "virtual server protocol 1 192.0.2.1:80: protocol 1 is not TCP, UDP or SCTP",
		},
		{
			f:    Marked(7, at(80).Address),
			want: "virtual server mark 0x7 (IPv4): mark 0x7 is not of 0xb7000000/0xff000000, without address, port and protocol",
		},
		{
			f:      Marked(Marks, at(80).Address),
			change: func(v *VirtualServer) { v.PersistenceTimeout = time.Second },
			want:   "virtual server mark 0xb7000000 (IPv4): persistence timeout 1s is not 0, as by mark it must be",
		},
		{
			f:    Frontend{Address: netip.MustParseAddr("::ffff:192.0.2.1"), Port: 80, Protocol: TCP},
			want: "virtual server TCP [::ffff:192.0.2.1]:80: address ::ffff:192.0.2.1 is not an address of one host without zone",
		},
		{
			f:      at(80),
			change: func(v *VirtualServer) { v.Scheduler = "random" },
			want:   `virtual server TCP 192.0.2.1:80: scheduler "random" is not one of rr, wrr, lc, wlc, dh, sh, sed, nq, mh`,
		},
		{
			f:      at(80),
			change: func(v *VirtualServer) { v.Flags = HashPort },
			want:   "virtual server TCP 192.0.2.1:80: flags 0x10 is not 0 (bits of 0x18 with schedulers mh and sh)",
		},
		{
			f:      at(80),
			change: func(v *VirtualServer) { v.PersistenceTimeout = 25 * time.Hour },
			want:   "virtual server TCP 192.0.2.1:80: persistence timeout 25h0m0s is not 0 to 24h0m0s",
		},
		{
			f:      at(80),
			change: func(v *VirtualServer) { v.RealServers[0].Port = 0 },
			want:   "virtual server TCP 192.0.2.1:80: port of real server 10.0.0.1 0 is not 1 to 65535",
		},
		{
			f:      at(80),
			change: func(v *VirtualServer) { v.RealServers[0].Weight = 1 << 31 },
			want:   "virtual server TCP 192.0.2.1:80: weight of real server 10.0.0.1 2147483648 is not 0 to 2147483647",
		},
		{
			f:      at(80),
			change: func(v *VirtualServer) { v.RealServers[0].Address = netip.MustParseAddr("2001:db8::1") },
			want:   "virtual server TCP 192.0.2.1:80: real server 2001:db8::1 is not an address of the same family",
		},
	} {
		v := VirtualServer{good.Settings, slices.Clone(good.RealServers)}
		if test.change != nil {
			test.change(&v)
		}
		// What the kernel has at this frontend stays, and other virtual servers are programmed.
		actual := Table{test.f: server("wrr", "9")}
		operations, problems := Diff(Table{test.f: v, at(443): good}, actual, everywhere)
		if err := problems[test.f]; err == nil || err.Error() != test.want {
			t.Errorf("problem %v, want %s", err, test.want)
		}
		if len(operations) != 2 || operations[0].Frontend != at(443) {
			t.Errorf("operations %v, want only those of %s", operations, at(443))
		}
	}
}

// model is a kernel's table, with its order of real servers.
type model Table

func (m model) apply(o Operation) error {
	v, exists := m[o.Frontend]
	i := slices.IndexFunc(v.RealServers, func(r RealServer) bool { return r.backend() == o.RealServer.backend() })
	list := slices.Clone(v.RealServers)
	if needs := o.Kind != CreateVirtualServer; needs != exists {
		return fmt.Errorf("%s: it exists: %v", o, exists)
	}
	if old := o.Kind == UpdateRealServer || o.Kind == MoveRealServer || o.Kind == DeleteRealServer; old != (i >= 0) {
		return fmt.Errorf("%s: the list is %v", o, list)
	}
	switch o.Kind {
	case CreateVirtualServer, UpdateVirtualServer:
		v.Settings = o.Settings
	case DeleteVirtualServer:
		delete(m, o.Frontend)
		return nil
	case CreateRealServer:
		list = slices.Insert(list, 0, o.RealServer)
	case UpdateRealServer:
		list[i] = o.RealServer
	case MoveRealServer:
		list = slices.Insert(slices.Delete(list, i, i+1), 0, o.RealServer)
	case DeleteRealServer:
		list = slices.Delete(list, i, i+1)
	}
	v.RealServers = list
	m[o.Frontend] = v
	return nil
}

func anyTable(t *rapid.T, name string) Table {
	table := Table{}
	for port := uint16(1); port <= 4; port++ {
		if rapid.Bool().Draw(t, name) {
			continue
		}
		v := VirtualServer{
			Settings: Settings{Scheduler: rapid.SampledFrom([]string{"rr", "wrr", "mh", "sh", "dh"}).Draw(t, "scheduler")},
		}
		if port != 3 && rapid.Bool().Draw(t, "persistent") {
			v.PersistenceTimeout = time.Duration(rapid.IntRange(1, 3000).Draw(t, "persistence")) * time.Millisecond
		}
		for _, n := range rapid.SliceOfN(rapid.IntRange(1, 7), 0, 7).Draw(t, "servers") { // in any order, also twice
			r := backends(fmt.Sprint(n))[0]
			r.Weight = uint32(rapid.IntRange(0, 3).Draw(t, "weight"))
			r.Draining = rapid.IntRange(0, 3).Draw(t, "draining") == 0
			v.RealServers = append(v.RealServers, r)
		}
		f := at(port)
		switch port {
		case 3:
			f = Marked(Marks|3, f.Address)
		case 4:
			f.Address = netip.MustParseAddr("192.0.2.99") // somebody else's, unless it is desired
		}
		table[f] = v
	}
	return table
}

// Whatever came before, the kernel ends with what is desired, in the canonical order where it
// counts, by operations on what differs, of which the deletions come last. What is somebody else's
// stays as it was.
func TestDiff_randomHistories(t *testing.T) {
	foreign := netip.MustParseAddr("192.0.2.99")
	rapid.Check(t, func(t *rapid.T) {
		kernel := model{}
		mine := map[netip.Addr]bool{at(80).Address: true}
		owned := ownedAt(func(a netip.Addr) bool { return mine[a] })
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			desired := anyTable(t, "absent")
			if f := (Frontend{Address: foreign, Port: 4, Protocol: TCP}); desired[f].Scheduler == "" && !mine[foreign] &&
				rapid.Bool().Draw(t, "foreign") {
				kernel[f] = server("wlc", "1 2")
			}
			for f := range desired {
				mine[f.Address] = true
			}
			before := maps.Clone(kernel)
			operations, problems := Diff(desired, Table(kernel), owned)
			if len(problems) > 0 {
				t.Fatalf("problems: %v", problems)
			}
			for i, o := range operations {
				if !owned(o.Frontend) {
					t.Fatalf("%s is not ours", o)
				}
				if i > 0 && deletes(operations[i-1].Kind) && !deletes(o.Kind) {
					t.Fatalf("%s comes after %s", o, operations[i-1])
				}
				if err := kernel.apply(o); err != nil {
					t.Fatal(err)
				}
			}
			for f, v := range before {
				if !owned(f) && !equal(kernel[f], v) {
					t.Fatalf("somebody else's %s was changed", f)
				}
			}
			for f, v := range desired {
				want, err := canonical(f, v)
				if err != nil {
					t.Fatal(err)
				}
				got := kernel[f]
				if !hashes(v.Scheduler) {
					got.RealServers = sorted(got.RealServers)
				}
				if !equal(got, want) {
					t.Fatalf("%s: kernel has %v, want %v", f, got, want)
				}
			}
			if again, _ := Diff(desired, Table(kernel), owned); len(again) > 0 {
				t.Fatalf("there is more to do: %v", again)
			}
		}
	})
}

func equal(a, b VirtualServer) bool {
	return a.Settings == b.Settings && slices.Equal(a.RealServers, b.RealServers)
}

func sorted(list []RealServer) []RealServer {
	return slices.SortedFunc(slices.Values(list), func(a, b RealServer) int { return a.backend().Compare(b.backend()) })
}

// As few as possible are moved: none of the ways to keep one more at the tail would give the order.
func TestDiff_movesFew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 8).Draw(t, "n")
		var want []RealServer
		for i := range n {
			want = append(want, backends(fmt.Sprint(i+1))...)
		}
		have := rapid.Permutation(want).Draw(t, "have")
		kept := inOrder(want, have)
		position := func(r RealServer) int { return slices.Index(have, r) }
		if !slices.IsSortedFunc(want[n-kept:], func(a, b RealServer) int { return position(a) - position(b) }) {
			t.Fatalf("the last %d of %v are not in order in %v", kept, want, have)
		}
		if kept < n && slices.IsSortedFunc(want[n-kept-1:], func(a, b RealServer) int { return position(a) - position(b) }) {
			t.Fatalf("one more than %d of %v could stay in %v", kept, want, have)
		}
	})
}

func TestDiff_oneChangeAmongMany(t *testing.T) {
	desired, actual := Table{}, Table{}
	for port := uint16(1); port <= 1000; port++ {
		desired[at(port)] = server("rr", "1 2 3 4 5")
		actual[at(port)] = server("rr", "5 4 3 2 1")
	}
	desired[at(7)] = server("rr", "1 2 3 4 6")
	operations, _ := Diff(desired, actual, everywhere)
	want := []Operation{
		{Kind: CreateRealServer, Frontend: at(7), RealServer: backends("6")[0]},
		{Kind: DeleteRealServer, Frontend: at(7), RealServer: backends("5")[0]},
	}
	if !slices.Equal(operations, want) {
		t.Errorf("operations %v, want %v", operations, want)
	}
}

func BenchmarkDiff1000(b *testing.B) {
	desired, actual := Table{}, Table{}
	for port := uint16(1); port <= 1000; port++ {
		desired[at(port)], actual[at(port)] = server("rr", "1 2 3 4 5"), server("rr", "5 4 3 2 1")
	}
	for b.Loop() {
		if operations, _ := Diff(desired, actual, everywhere); len(operations) > 0 {
			b.Fatal(operations)
		}
	}
}
