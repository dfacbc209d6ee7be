//go:build root && guest

package steering

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
	"github.com/berth-lb/berth/speaker/dataplane/steering/decide"
)

// These tests are for a kernel that has bonds, VLANs and SCTP: that of a guest.

// The address is on a bond, or on a VLAN, as on most real nodes: the program is attached there.
func TestDriver_devices(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		ports  []string
	}{
		"bond": {`modprobe bonding
ip link add uplink type bond mode active-backup miimon 100
for i in 1 2; do
  ip link add leg$i type veth peer name port$i netns %[1]s
  ip link set leg$i master uplink
done
ip link set uplink up`, []string{"port1", "port2"}},
		"vlan": {`modprobe 8021q
ip link add trunk type veth peer name far netns %[1]s; ip link set trunk up
nsenter -t %[1]s -n ip link set far up
ip link add link trunk name uplink type vlan id 7; ip link set uplink up
nsenter -t %[1]s -n ip link add link far name port type vlan id 7`, []string{"port"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRackBy(t, c.script, c.ports...)
			d := r.start(t)
			mustSync(t, d, r.desired(t, "one"))
			r.expect(t, name, "one")
			mustSync(t, d, r.desired(t, "two"))
			r.expect(t, name+", other members", "two")
			if n := packets(t, d); n["first one"] == 0 || n["first two"] == 0 {
				t.Errorf("counted %v, want packets for both nodes", n)
			}
		})
	}
}

// An association of SCTP goes to a member, and stays there while its slot stays.
func TestDriver_sctp(t *testing.T) {
	nettest.Shell(t, "modprobe sctp")
	r := newRack(t)
	d := r.start(t)
	desired := r.desired(t, "one")
	web := desired.Services["default/web"]
	web.Frontends = append(web.Frontends, Frontend{netip.AddrPortFrom(vip4, port), decide.SCTP})
	desired.Services["default/web"] = web
	mustSync(t, d, desired)
	for name, enter := range r.nodes {
		nettest.Within(t, enter, func() { answerSCTP(t, name) })
	}
	var c int
	nettest.Within(t, r.client, func() { c = sctp(t) })
	if err := unix.Connect(c, &unix.SockaddrInet4{Addr: vip4.As4(), Port: port}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := unix.Write(c, []byte("who?")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 64)
		n, err := unix.Read(c, b)
		if err != nil || string(b[:n]) != "one" {
			t.Fatalf("%q answers, %v, want one", b[:max(n, 0)], err)
		}
	}
	if n := packets(t, d); n["first one"] < 4 {
		t.Errorf("counted %v, want the packets of an association with node one", n)
	}
}

// sctp returns a socket that waits for nothing longer than patience.
func sctp(t *testing.T) int {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(s) })
	wait := unix.NsecToTimeval(int64(patience / time.Nanosecond))
	for _, o := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, o, &wait); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// answerSCTP says the node's name for whatever comes.
func answerSCTP(t *testing.T, name string) {
	l := sctp(t)
	if err := unix.Bind(l, &unix.SockaddrInet4{Addr: vip4.As4(), Port: port}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(l, 8); err != nil {
		t.Fatal(err)
	}
	go func() {
		s, _, err := unix.Accept(l) // ends with the socket
		if err != nil {
			return
		}
		defer unix.Close(s)
		b := make([]byte, 64)
		for {
			if n, err := unix.Read(s, b); err != nil || n == 0 {
				return
			}
			if _, err := unix.Write(s, []byte(name)); err != nil {
				return
			}
		}
	}()
}
