//go:build root && vrf

package bgp

import (
	"os/exec"
	"strings"
	"testing"
)

// This needs a kernel with VRFs: go test -tags root,vrf -run VRF -exec .cache/bin/vm-exec ./bgp
func TestARouterInAVRFIsReachedThere(t *testing.T) {
	f := newFRR(t, frrConfig)
	for _, line := range []string{
		"link add red type vrf table 100", "link set red up", "link set " + f.link + " master red",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	d := run(t)
	peer := frrPeer("tor1", frrIPv4)
	d.SyncPeers([]Peer{peer})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	d.observesReason(t, SessionFailed, "tor1", "cannot connect")
	peer.VRF = "red"
	d.SyncPeers([]Peer{peer})
	d.observes(t, SessionUp, "tor1")
	f.says(t, "ipv4", "192.0.2.1/32", "path 64512 via 10.0.0.9")
}
