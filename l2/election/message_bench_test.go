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
