package measure

import (
	"bufio"
	"net"
	"net/netip"
	"os"
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
   6: 0B001EAC:00B3 06001EAC:C350 03 00000000:00000000 00:00000000 00000000     0        0 5
   7: 0B001EAC:A1B5 07001EAC:00B3 01 00000000:00000000 00:00000000 00000000     0        0 6
   8: 0B001EAC:A1B6 07001EAC:00B3 02 00000000:00000000 00:00000000 00000000     0        0 7
   9: 0B001EAC:A1B7 08001EAC:00B3 06 00000000:00000000 00:00000000 00000000     0        0 8
`

func TestContactIn(t *testing.T) {
	for end, want := range map[string]contact{
		"172.30.0.1:179":       connected, // we called
		"172.30.0.3:179":       connected, // it called
		"172.30.0.4:179":       calling,   // it does not answer yet
		"172.30.0.5:179":       connected, // by a socket of IPv6
		"172.30.0.6:179":       calling,   // it calls
		"172.30.0.7:179":       connected, // and there is another call
		"172.30.0.8:179":       none,      // it is being closed
		"[2001:db8::2]:179":    connected,
		"[2001:db8::3]:179":    none,
		"172.30.0.1:1790":      none,
		"172.30.0.99:179":      none,
		"[fe80::1%eth0]:179":   none,
		"[::ffff:9.9.9.9]:179": none,
	} {
		lines := bufio.NewScanner(strings.NewReader(table))
		if got, err := contactIn(lines, netip.MustParseAddrPort(end)); err != nil || got != want {
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

// Who looks again finds the session that has come up since, and does not call.
func TestKnockMeanwhile(t *testing.T) {
	ear, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ear.Close()
	at := netip.MustParseAddrPort(ear.Addr().String())
	router := probe.Router{Neighbor: "tor", Address: at.Addr(), Port: at.Port(), LocalASN: 64513, RemoteASN: 64513}
	looks := 0
	look := func(netip.AddrPort) (contact, error) {
		looks++
		return []contact{calling, connected}[min(looks, 2)-1], nil
	}
	knock, err := knockBy(t.Context(), router, look)
	if err != nil || !knock.Established || knock.Failure != "" || looks != 2 {
		t.Errorf("%+v, %v after %d looks", knock, err, looks)
	}
	// A router that takes no signed connection is called again without, some seconds later.
	router.Secret, router.PasswordFile = "md5", t.TempDir()+"/password"
	if err := os.WriteFile(router.PasswordFile, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	looks = 0
	knock, err = knockBy(t.Context(), router, func(netip.AddrPort) (contact, error) {
		looks++
		return []contact{none, connected}[min(looks, 2)-1], nil
	})
	if err != nil || !knock.Established || knock.Failure != "" || looks != 2 {
		t.Errorf("%+v, %v after %d looks", knock, err, looks)
	}
	session, err := net.Dial("tcp", at.String()) // the next one that is accepted
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	first, err := ear.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if first.RemoteAddr().String() != session.LocalAddr().String() {
		t.Errorf("%s called before", first.RemoteAddr())
	}
}

// A call that stays pending is one that the router does not take, and no reason not to ask why.
func TestKnockPending(t *testing.T) {
	ear, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(ear.Addr().String())
	if err := ear.Close(); err != nil {
		t.Fatal(err)
	}
	router := probe.Router{Neighbor: "tor", Address: at.Addr(), Port: at.Port()}
	knock, err := knockBy(t.Context(), router, func(netip.AddrPort) (contact, error) { return calling, nil })
	if err != nil || knock.Established || !strings.Contains(knock.Failure, "connection refused") {
		t.Errorf("%+v, %v", knock, err)
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
