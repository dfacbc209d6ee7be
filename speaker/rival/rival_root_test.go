//go:build root

package rival

import (
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"

	"github.com/berth-lb/berth/speaker/dataplane/nft/nettest"
)

// Each has the process be another BGP speaker of the node.
const (
	dialEnv   = "BERTH_RIVAL_TEST_DIALS"
	listenEnv = "BERTH_RIVAL_TEST_LISTENS"
)

func TestMain(m *testing.M) {
	switch dials, listens := os.Getenv(dialEnv), os.Getenv(listenEnv); {
	case dials != "":
		c, err := net.Dial("tcp", dials)
		if err != nil {
			panic(err)
		}
		_, _ = io.Copy(io.Discard, c)
	case listens != "":
		l, err := net.Listen("tcp", listens)
		if err != nil {
			panic(err)
		}
		os.Stdout.Write([]byte("listens\n"))
		c, err := l.Accept()
		if err != nil {
			panic(err)
		}
		_, _ = io.Copy(io.Discard, c)
	default:
		os.Exit(nettest.Main(m))
	}
}

// another starts another process of this node, and returns what ends it.
func another(t *testing.T, env string) (end func()) {
	t.Helper()
	cmd := exec.Command(nettest.Executable())
	cmd.Env = append(os.Environ(), env)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(end)
	if env == listenEnv+"=:179" {
		if _, err := io.ReadFull(out, make([]byte, len("listens\n"))); err != nil {
			t.Fatal(err)
		}
	}
	return end
}

// wire makes this namespace a node with a router, which listens.
func wire(t *testing.T) (router string) {
	t.Helper()
	router = nettest.Namespace(t)
	nettest.Shell(t, `set -e
ip link add eth0 type veth peer name node netns %s
ip addr add 172.30.0.11/24 dev eth0; ip -6 addr add fd00:30::11/64 dev eth0 nodad; ip link set eth0 up`, nettest.PID(router))
	t.Cleanup(func() { nettest.Shell(t, "ip link del eth0") })
	nettest.Shell(
		t,
		`%s bash -ec 'ip link set lo up; ip addr add 172.30.0.1/24 dev node; ip -6 addr add fd00:30::1/64 dev node nodad; ip link set node up'`,
		router,
	)
	var l net.Listener
	var err error
	nettest.Within(t, router, func() { l, err = net.Listen("tcp", ":179") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	return router
}

func rivals(t *testing.T, router string) []Connection {
	t.Helper()
	found, err := Look([]Router{{Address: netip.MustParseAddr(router)}})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestLook_otherProcess(t *testing.T) {
	wire(t)
	for _, router := range []string{"172.30.0.1", "fd00:30::1"} {
		target := net.JoinHostPort(router, "179")
		own, err := net.Dial("tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		defer own.Close()
		if found := rivals(t, router); len(found) != 0 {
			t.Errorf("our own connection, %v, is called another's", found)
		}
		end := another(t, dialEnv+"="+target)
		nettest.Eventually(t, "another process's session with "+router+" is seen", func() bool {
			found := rivals(t, router)
			return len(found) == 1 && found[0].Remote == netip.MustParseAddrPort(target) && found[0].Interface == ""
		})
		end()
		nettest.Eventually(t, "it is gone", func() bool { return len(rivals(t, router)) == 0 })
	}
}

func TestLook_routerDialed(t *testing.T) {
	namespace := wire(t)
	for router, node := range map[string]string{"172.30.0.1": "172.30.0.11:179", "fd00:30::1": "[fd00:30::11]:179"} {
		end := another(t, listenEnv+"=:179")
		var c net.Conn
		var err error
		nettest.Within(t, namespace, func() { c, err = net.Dial("tcp", node) })
		if err != nil {
			t.Fatal(err)
		}
		nettest.Eventually(t, "the session that "+router+" dialed is seen", func() bool {
			found := rivals(t, router)
			return len(found) == 1 && found[0].Local == netip.MustParseAddrPort(node)
		})
		c.Close()
		end()
	}
}
