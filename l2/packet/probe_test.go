package packet

import (
	"strings"
	"testing"

	"github.com/berth-lb/berth/l2/neighbor"
)

// A message of a probe is not taken for a hello.
func TestProbeFrame(t *testing.T) {
	long := strings.Repeat("n", 253)
	for _, node := range []string{"n1", long} {
		frame := ProbeFrame(ours, 7, node)
		if len(frame) < neighbor.EthernetHeader+minProbe {
			t.Errorf("a frame of %d bytes", len(frame))
		}
		cluster, name := uint64(0), ""
		in := Handlers{
			Hello: func([]byte) { t.Error("it is taken for a hello") },
			Cut:   func() { t.Error("it is taken for a frame that was cut") },
		}
		in.takeHello(frame, in.Hello) // a speaker
		in.Probe = func(c uint64, n string) { cluster, name = c, n }
		in.takeHello(frame, in.Hello)
		if cluster != 7 || name != node {
			t.Errorf("from %q of cluster %d, want %q of 7", name, cluster, node)
		}
	}
	var hellos int
	in := Handlers{
		Hello: func([]byte) { hellos++ },
		Cut:   func() {},
		Probe: func(uint64, string) { t.Error("it is a probe's") },
	}
	in.takeHello(HelloFrame(ours, []byte("BRTH and so on")), in.Hello)
	if hellos != 1 {
		t.Errorf("%d hellos", hellos)
	}
}

func FuzzProbeOf(f *testing.F) {
	f.Add(ProbeFrame(ours, 7, "n1")[neighbor.EthernetHeader:])
	f.Add([]byte("BRTD"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if _, node, is := probeOf(payload); len(node) > len(payload) || !is && node != "" {
			t.Errorf("%q is from %q", payload, node)
		}
	})
}
