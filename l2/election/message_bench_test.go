package election

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// BenchmarkHellosOfOneSecond measures what one second of hellos costs a speaker: its own are
// signed, those of all other nodes are verified and heard. cpu% is of one core. Mbit/s is what all
// nodes send together.
func BenchmarkHellosOfOneSecond(b *testing.B) {
	for _, nodes := range []int{3, 50, 100} {
		b.Run(fmt.Sprint(nodes, "_nodes"), func(b *testing.B) {
			keys := Keys{Sign: []byte("a key as long as the controller's")}
			now := time.Unix(0, 0)
			m := NewMachine(Options{
				Node: "node-0.rack-1.example", Boot: 1,
				Interval: 100 * time.Millisecond, Listen: time.Second, Handover: time.Second,
				Random: func() uint64 { return 7 },
			})
			m.Open(now, 1500)
			said := func(peer int, sequence uint64, kind messageKind) Message {
				return Message{
					kind: kind, Node: fmt.Sprintf("node-%d.rack-1.example",
						peer), Boot: uint64(peer) + 1, sequence: sequence,
					interval: m.pacer.interval, state: Ready, to: 1, nonce: 7,
				}
			}
			hear := func(x Message) error {
				opened, err := OpenMessage(x.Seal(keys.Sign), 0, keys)
				if err == nil {
					err = m.Hear(now, opened)
				}
				m.Take()
				return err
			}
			for peer := 1; peer < nodes; peer++ {
				_ = hear(said(peer, 1, kindHello)) // is challenged
				if err := hear(said(peer, 2, kindProof)); err != nil {
					b.Fatal(err)
				}
			}
			m.Tick(now)
			perSecond := int(time.Second / m.pacer.interval)
			const header = 14 // of Ethernet
			size := header + len(said(1, 1, kindHello).Seal(keys.Sign))
			sealed := make([][]byte, 0, nodes)
			sequence := uint64(2)
			for b.Loop() {
				for range perSecond {
					b.StopTimer()
					sequence++
					now = now.Add(m.pacer.interval)
					sealed = sealed[:0]
					for peer := 1; peer < nodes; peer++ {
						sealed = append(sealed, said(peer, sequence, kindHello).Seal(keys.Sign))
					}
					b.StartTimer()
					for _, payload := range sealed {
						x, err := OpenMessage(payload, 0, keys)
						if err == nil {
							err = m.Hear(now, x)
						}
						if err != nil {
							b.Fatal(err)
						}
					}
					m.BeginTick(now)
					m.Tick(now)
					m.Step(now, Joined)
					for _, x := range m.Take().Messages {
						x.Seal(keys.Sign)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(time.Second)*100, "cpu%")
			b.ReportMetric(float64(nodes*perSecond*size*8)/1e6, "Mbit/s")
		})
	}
}

// BenchmarkCandidatesChange is what a segment computes when the candidates for 10 000 addresses
// change, which share one list.
func BenchmarkCandidatesChange(b *testing.B) {
	for _, nodes := range []int{3, 50, 500} {
		b.Run(fmt.Sprint(nodes, "_nodes"), func(b *testing.B) {
			now := time.Unix(0, 0)
			m := NewMachine(Options{
				Node: "node-000.rack-1.example", Boot: 1,
				Interval: 100 * time.Millisecond, Listen: time.Second, Handover: time.Second,
				Random: func() uint64 { return 7 },
			})
			m.Open(now, 1500)
			names := make([]string, nodes)
			for i := range names {
				names[i] = fmt.Sprintf("node-%03d.rack-1.example", i)
			}
			lists := [][]string{names, names[:nodes-1]}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				address := netip.MustParseAddr("10.0.0.1")
				for range 10_000 {
					m.SetDesired(now, address, Desired{Announced: true, Candidates: lists[i%2]})
					address = address.Next()
				}
				m.Take()
			}
		})
	}
}

// BenchmarkPeersSilent is what a segment computes when a share of its peers falls silent at once,
// as when the segment splits. No address has an owner yet, which costs most.
func BenchmarkPeersSilent(b *testing.B) {
	const nodes, addresses = 50, 2_000
	for _, silent := range []int{1, nodes / 2} {
		b.Run(fmt.Sprint(silent, "_of_", nodes), func(b *testing.B) {
			names := make([]string, nodes)
			for i := range names {
				names[i] = fmt.Sprintf("node-%03d.rack-1.example", i)
			}
			for b.Loop() {
				b.StopTimer()
				now := time.Unix(0, 0)
				m := NewMachine(Options{
					Node: names[0], Boot: 1,
					Interval: 100 * time.Millisecond, Listen: time.Second, Handover: time.Second,
					Random: func() uint64 { return 7 },
				})
				m.Open(now, 1500)
				m.SetState(now, Ready, true, true, Joined)
				said := func(i int, sequence uint64, kind messageKind) error {
					return m.Hear(now, Message{
						kind: kind, Node: names[i], Boot: uint64(i + 1), sequence: sequence, state: Ready,
						interval: m.pacer.interval, to: 1, nonce: 7,
					})
				}
				beat := func(sequence uint64, peers int) {
					for i := range peers {
						if err := said(i+1, sequence, kindHello); err != nil {
							b.Fatal(err)
						}
					}
					m.BeginTick(now)
					m.Tick(now)
					m.Step(now, Joined)
					m.Take()
				}
				for i := 1; i < nodes; i++ {
					_ = said(i, 1, kindHello) // is challenged
					if err := said(i, 2, kindProof); err != nil {
						b.Fatal(err)
					}
				}
				sequence := uint64(3)
				for ; sequence < 40; sequence++ {
					beat(sequence, nodes-1)
					now = now.Add(m.pacer.interval)
				}
				address := netip.MustParseAddr("10.0.0.1")
				for range addresses {
					m.SetDesired(now, address, Desired{Announced: true, Candidates: names})
					address = address.Next()
				}
				for range silence {
					beat(sequence, nodes-1-silent)
					sequence++
					now = now.Add(m.pacer.interval)
				}
				if alive := m.peers.countAlive(); alive != nodes-1 {
					b.Fatalf("%d peers alive before, want %d", alive, nodes-1)
				}
				b.StartTimer()
				beat(sequence, nodes-1-silent)
				if alive := m.peers.countAlive(); alive != nodes-1-silent {
					b.Fatalf("%d peers alive, want %d", alive, nodes-1-silent)
				}
			}
		})
	}
}
