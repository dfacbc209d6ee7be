package measure

import (
	"bufio"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/berth-lb/berth/internal/probe"
)

const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1
   1: 0B001EAC:A1B2 01001EAC:00B3 01 00000000:00000000 00:00000000 00000000     0        0 2
   2: 0B001EAC:00B3 03001EAC:C350 01 00000000:00000000 00:00000000 00000000     0        0 3
   3: 0B001EAC:A1B3 04001EAC:00B3 02 00000000:00000000 00:00000000 00000000     0        0 4
   4: 0000000000000000FFFF00000B001EAC:A1B4 0000000000000000FFFF000005001EAC:00B3 01 00000000:00000000 00:00000000
   5: B80D0120000000000000000001000000:A1B4 B80D0120000000000000000002000000:00B3 01 00000000:00000000 00:00000000
`

func TestConnectedIn(t *testing.T) {
	for end, want := range map[string]bool{
		"172.30.0.1:179":       true,  // we called
		"172.30.0.3:179":       true,  // it called
		"172.30.0.4:179":       false, // it does not answer yet
		"172.30.0.5:179":       true,  // by a socket of IPv6
		"[2001:db8::2]:179":    true,
		"[2001:db8::3]:179":    false,
		"172.30.0.1:1790":      false,
		"172.30.0.99:179":      false,
		"[fe80::1%eth0]:179":   false,
		"[::ffff:9.9.9.9]:179": false,
	} {
		lines := bufio.NewScanner(strings.NewReader(table))
		if got, err := connectedIn(lines, netip.MustParseAddrPort(end)); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", end, got, err, want)
		}
	}
	for _, bad := range []string{"x", "0100007F", "0100007F:", "01:0", "0100007F:10000"} {
		if _, err := endOf(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// A router is called once at most, and not while there is a connection.
func TestKnock(t *testing.T) {
	ear, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ear.Close()
	at := netip.MustParseAddrPort(ear.Addr().String())
	router := probe.Router{Neighbor: "tor", Address: at.Addr(), Port: at.Port(), LocalASN: 64513, RemoteASN: 64513}
	knock, err := knockAt(t.Context(), router)
	if err != nil || knock != (probe.Knock{Neighbor: "tor", Address: at.Addr()}) {
		t.Errorf("it listens: %+v, %v", knock, err)
	}
	ours, err := ear.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := ours.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("it was told %d bytes, %v", n, err)
	}
	session, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if knock, err = knockAt(t.Context(), router); err != nil || !knock.Established {
		t.Errorf("there is a connection: %+v, %v", knock, err)
	}
	router.Secret, router.PasswordFile = "md5", t.TempDir()+"/none"
	if knock, err = knockAt(t.Context(), router); err != nil || !knock.Untried {
		t.Errorf("there is no password: %+v, %v", knock, err)
	}
}

func TestKnockRefused(t *testing.T) {
	ear, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(ear.Addr().String())
	if err := ear.Close(); err != nil {
		t.Fatal(err)
	}
	knock, err := knockAt(t.Context(), probe.Router{Neighbor: "tor", Address: at.Addr(), Port: at.Port()})
	if err != nil || !strings.Contains(knock.Failure, "connection refused") || knock.Signature {
		t.Errorf("nobody listens: %+v, %v", knock, err)
	}
}
