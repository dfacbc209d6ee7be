package l2

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkHellosOfOneSecond is what hellos cost a speaker in a second on a segment with so many nodes: one's own are
// signed, those of all others checked and heard. cpu% is of one core; Mbit/s is what all nodes together send.
func BenchmarkHellosOfOneSecond(b *testing.B) {
	for _, nodes := range []int{3, 50, 100} {
		b.Run(fmt.Sprint(nodes, "_nodes"), func(b *testing.B) {
			keys := Keys{Sign: []byte("a key as long as the controller's")}
			now := time.Unix(0, 0)
			m := newMachine("node-0.rack-1.example", 1, 100*time.Millisecond, time.Second, time.Second, func() uint64 { return 7 })
			m.clock.opened(now)
			said := func(peer int, sequence uint64, kind messageKind) message {
				return message{
					kind: kind, node: fmt.Sprintf("node-%d.rack-1.example", peer), boot: uint64(peer) + 1, sequence: sequence,
					interval: m.clock.interval, state: Ready, to: 1, nonce: 7,
				}
			}
			hear := func(x message) error {
				opened, err := openMessage(x.seal(keys.Sign), 0, keys)
				if err == nil {
					err = m.hear(now, opened)
				}
				m.take()
				return err
			}
			for peer := 1; peer < nodes; peer++ {
				_ = hear(said(peer, 1, kindHello)) // is challenged
				if err := hear(said(peer, 2, kindProof)); err != nil {
					b.Fatal(err)
				}
			}
			m.tick(now)
			perSecond := int(time.Second / m.clock.interval)
			size := ethernetHeader + len(said(1, 1, kindHello).seal(keys.Sign))
			sealed := make([][]byte, 0, nodes)
			sequence := uint64(2)
			for b.Loop() {
				for range perSecond {
					b.StopTimer()
					sequence++
					now = now.Add(m.clock.interval)
					sealed = sealed[:0]
					for peer := 1; peer < nodes; peer++ {
						sealed = append(sealed, said(peer, sequence, kindHello).seal(keys.Sign))
					}
					b.StartTimer()
					for _, payload := range sealed {
						x, err := openMessage(payload, 0, keys)
						if err == nil {
							err = m.hear(now, x)
						}
						if err != nil {
							b.Fatal(err)
						}
					}
					m.wake(now)
					m.tick(now)
					m.step(now, Joined)
					for _, x := range m.take().messages {
						x.seal(keys.Sign)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(time.Second)*100, "cpu%")
			b.ReportMetric(float64(nodes*perSecond*size*8)/1e6, "Mbit/s")
		})
	}
}
