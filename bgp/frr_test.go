//go:build root

package bgp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/berth-lb/berth/bgp/community"
)

// frr is FRR as a router in a network namespace of its own, at the other end of a cable.
type frr struct {
	root, dir   string
	link        string // our end of the cable; no other router's has its name, for which the net package keeps the index
	ends        cableEnds
	zebra, bgpd *exec.Cmd
}

// cableEnds are the addresses, with their prefixes' lengths, at the ends of the cable.
type cableEnds struct{ near, router []string }

const (
	frrASN    = 64513
	frrIPv4   = "10.0.0.1"
	frrIPv6   = "2001:db8::1"
	frrConfig = `
router bgp 64513
 bgp router-id 10.0.0.1
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 neighbor node peer-group
 neighbor node remote-as 64512
 neighbor node timers 1 3
 neighbor 10.0.0.9 peer-group node
 neighbor 2001:db8::9 peer-group node
 address-family ipv4 unicast
  neighbor node activate
 exit-address-family
 address-family ipv6 unicast
  neighbor node activate
 exit-address-family
`
)

func newFRR(t *testing.T, config string) *frr {
	t.Helper()
	return newFRRAt(t, config, cableEnds{
		near:   []string{"10.0.0.9/24", "2001:db8::9/64"},
		router: []string{"10.0.0.1/24", "2001:db8::1/64"},
	})
}

func newFRRAt(t *testing.T, config string, ends cableEnds) *frr {
	t.Helper()
	f := &frr{root: frrRoot(t), ends: ends}
	dir, err := os.MkdirTemp("", "bgpt-") //nolint:usetesting // a short name, for sockets are in it
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	f.dir, f.link = dir, "bt"+strings.TrimPrefix(filepath.Base(dir), "bgpt-")
	// FRR wants its groups to exist; the mount namespace is our own.
	group := filepath.Join(dir, "group")
	must(t, os.WriteFile(group, []byte("root:x:0:\nfrr:x:999:root\nfrrvty:x:998:root\n"), 0o644))
	must(t, syscall.Mount(group, "/etc/group", "", syscall.MS_BIND, ""))
	t.Cleanup(func() { must(t, syscall.Unmount("/etc/group", 0)) })
	must(t, os.WriteFile(filepath.Join(dir, "zebra.conf"), nil, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "bgpd.conf"), []byte(config), 0o644))
	// Without this vtysh asks PAM.
	must(t, os.WriteFile(filepath.Join(dir, "vtysh.conf"), []byte("username root nopassword\n"), 0o644))

	f.zebra = f.daemon(t, "zebra", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET})
	f.await(t, "zebra to answer", func() bool { return f.vtysh("zebra", "show version") != "" })
	f.cable(t) // only now: of a link that comes while it begins, zebra may miss an address
	f.await(t, "zebra to know its addresses", func() bool {
		link := f.vtysh("zebra", "show interface bgpt-tor")
		return !slices.ContainsFunc(ends.router, func(a string) bool { return !strings.Contains(link, a) })
	})
	f.bgpd = f.daemon(t, "bgpd", nil)
	f.await(t, "bgpd to answer", func() bool { return f.vtysh("bgpd", "show bgp summary json") != "" })
	return f
}

// frrRoot is where Debian's package of FRR is unpacked.
func frrRoot(t *testing.T) string {
	t.Helper()
	root := os.Getenv("BERTH_FRR_ROOT")
	if root == "" {
		root = "../.cache/pkg"
	}
	root, err := filepath.Abs(root)
	must(t, err)
	if _, err := os.Stat(filepath.Join(root, "usr/lib/frr/bgpd")); err != nil {
		t.Fatalf("FRR is not in %s: unpack Debian's frr, libyang2, libc-ares2, libjson-c5 and libprotobuf-c1 there, "+
			"or set BERTH_FRR_ROOT (%v)", root, err)
	}
	return root
}

func (f *frr) daemon(t *testing.T, name string, attr *syscall.SysProcAttr) *exec.Cmd {
	t.Helper()
	args := []string{
		filepath.Join(f.root, "usr/lib/frr", name), "-u", "root", "-g", "root", "-A", "127.0.0.1",
		"-f", filepath.Join(f.dir, name+".conf"), "-i", filepath.Join(f.dir, name+".pid"),
		"-z", filepath.Join(f.dir, "zserv.api"), "--vty_socket", f.dir,
		"--log", "file:" + filepath.Join(f.dir, name+".log"), "--log-level", "informational",
	}
	if name == "bfdd" {
		args = append(args, "--bfdctl", filepath.Join(f.dir, "bfdd.sock"))
	}
	if name != "zebra" {
		args = append(f.inside(), args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+f.libraries())
	output, err := os.Create(filepath.Join(f.dir, name+".out"))
	must(t, err)
	defer output.Close()
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = output, output, attr
	must(t, cmd.Start())
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); !errors.Is(err, os.ErrProcessDone) { // unless the test has killed it
			must(t, err)
		}
		_ = cmd.Wait() // killed
		if t.Failed() {
			said, _ := exec.Command("sh", "-c", "tail -n 20 "+filepath.Join(f.dir, name)+".*").CombinedOutput()
			t.Logf("%s", said)
		}
	})
	return cmd
}

// libraries is where the unpacked packages have theirs.
func (f *frr) libraries() string {
	var dirs []string
	for _, pattern := range []string{"usr/lib/*-linux-gnu", "usr/lib/*-linux-gnu/frr", "lib/*-linux-gnu"} {
		found, _ := filepath.Glob(filepath.Join(f.root, pattern)) // the patterns are well-formed
		dirs = append(dirs, found...)
	}
	return strings.Join(dirs, ":")
}

// inside is the command that runs another one in the router's namespace.
func (f *frr) inside() []string {
	return []string{"nsenter", "--net=" + fmt.Sprintf("/proc/%d/ns/net", f.zebra.Process.Pid)}
}

// cable connects the driver's namespace with the router's.
func (f *frr) cable(t *testing.T) {
	t.Helper()
	pid := fmt.Sprint(f.zebra.Process.Pid)
	// Link-local addresses are there at once: FRR refuses IPv6 sessions on a link without one. And the
	// node has no address besides, which FRR's advertisements would give it.
	command(t, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.default.autoconf=0")
	f.shell(t, "sysctl -qw net.ipv6.conf.default.accept_dad=0")
	command(t, "ip", "link", "add", f.link, "type", "veth", "peer", "name", "bgpt-tor", "netns", pid)
	t.Cleanup(func() { command(t, "ip", "link", "del", f.link) })
	for _, a := range f.ends.near {
		command(t, "ip", addAddress(a, f.link)...)
	}
	command(t, "ip", "link", "set", f.link, "up")
	f.shell(t, "ip link set lo up")
	for _, a := range f.ends.router {
		f.shell(t, "ip "+strings.Join(addAddress(a, "bgpt-tor"), " "))
	}
	for _, line := range []string{
		"ip link set bgpt-tor up",
		"sysctl -qw net.ipv4.ip_forward=1",
		"ip route add blackhole 10.9.9.9/32",
	} {
		f.shell(t, line)
	}
}

// addAddress is what ip is told to add an address, which can be used at once.
func addAddress(address, link string) []string {
	args := []string{"addr", "add", address, "dev", link}
	if strings.Contains(address, ":") {
		args = append(args, "nodad")
	}
	return args
}

// shell runs a command in the router's namespace.
func (f *frr) shell(t *testing.T, line string) {
	t.Helper()
	args := append(f.inside(), strings.Fields(line)...)
	command(t, args[0], args[1:]...)
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// vtysh gives one of FRR's daemons commands; empty if it does not answer.
func (f *frr) vtysh(daemon string, commands ...string) string {
	args := []string{"--config_dir", f.dir, "--vty_socket", f.dir, "-d", daemon}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	cmd := exec.Command(filepath.Join(f.root, "usr/bin/vtysh"), args...)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+f.libraries())
	out, err := cmd.Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// table is what FRR's BGP has: prefix to next hop.
func (f *frr) table(family string) map[string]string {
	var answer struct {
		Routes map[string][]struct {
			Valid    bool
			Path     string
			Nexthops []struct {
				IP    string
				Scope string
			}
		}
	}
	if err := json.Unmarshal([]byte(f.vtysh("bgpd", "show bgp "+family+" unicast json")), &answer); err != nil {
		return map[string]string{"error": err.Error()}
	}
	table := map[string]string{}
	for prefix, paths := range answer.Routes {
		for _, p := range paths {
			for _, hop := range p.Nexthops {
				table[prefix] = strings.TrimSpace(fmt.Sprintf("%s path %s valid %v", hop.IP, p.Path, p.Valid))
			}
		}
	}
	return table
}

// has waits until FRR's tables of both families have exactly these prefixes, with the node's next
// hops.
func (f *frr) has(t *testing.T, prefixes ...string) {
	t.Helper()
	want := map[string]string{}
	for _, p := range prefixes {
		want[p] = "10.0.0.9 path 64512 valid true"
		if strings.Contains(p, ":") {
			want[p] = "2001:db8::9 path 64512 valid true"
		}
	}
	var got map[string]string
	f.await(t, "tables", func() bool {
		got = f.table("ipv4")
		for p, path := range f.table("ipv6") {
			got[p] = path
		}
		return cmp.Equal(got, want)
	}, func() string { return cmp.Diff(want, got) })
}

// await asks again and again: FRR does not tell.
func (f *frr) await(t *testing.T, what string, ok func() bool, details ...func() string) {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	await(t, again.C, ok, func() string {
		text := "waited for " + what
		for _, d := range details {
			text += ":\n" + d()
		}
		return text
	})
}

func frrPeer(name, address string) Peer {
	return Peer{Name: name, Address: netip.MustParseAddr(address), LocalASN: nodeASN, RemoteASN: frrASN,
		HoldTime: 3 * time.Second, ConnectRetryTime: time.Second}
}

func TestFRRTakesRoutesOfBothFamiliesOverASessionOfEither(t *testing.T) {
	f := newFRR(t, frrConfig)
	for _, address := range []string{frrIPv4, frrIPv6} {
		t.Run(address, func(t *testing.T) {
			d := run(t)
			d.SyncPeers([]Peer{frrPeer("tor1", address)})
			d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8:1::1/128"))
			d.Sync("dns", routes([]string{"tor1"}, "192.0.2.53/32"))
			d.Sync("other", routes([]string{"tor2"}, "192.0.2.99/32"))
			f.has(t, "192.0.2.1/32", "192.0.2.53/32", "2001:db8:1::1/128")
			d.up(t, "tor1")
			d.Sync("web", routes(nil, "2001:db8:1::1/128"))
			f.has(t, "192.0.2.53/32", "2001:db8:1::1/128")
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			must(t, d.Withdraw(ctx))
			f.has(t)
			if !d.session(t, "tor1").Established() {
				t.Error("the session did not outlive the withdrawal")
			}
		})
	}
}

func TestFRRTakesUsBackAfterARestart(t *testing.T) {
	f := newFRR(t, frrConfig)
	for i := range 2 {
		d := run(t)
		began := time.Now()
		d.SyncPeers([]Peer{frrPeer("tor1", frrIPv4)})
		d.Sync("web", routes(nil, "192.0.2.1/32"))
		f.has(t, "192.0.2.1/32")
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("start %d: route arrived after %s", i+1, took)
		}
		if took := d.stop(); took > 2*time.Second {
			t.Errorf("stop %d took %s", i+1, took)
		}
		f.has(t)
	}
	var neighbors map[string]struct {
		LastErrorCodeSubcode    string
		LastShutdownDescription string
	}
	must(t, json.Unmarshal([]byte(f.vtysh("bgpd", "show bgp neighbors 10.0.0.9 json")), &neighbors))
	if n := neighbors["10.0.0.9"]; n.LastErrorCodeSubcode != "0604" || n.LastShutdownDescription != "restarting" {
		t.Errorf("FRR saw %+v, want Cease, Administrative Reset (0604), restarting", n)
	}
}

func TestFRRWithAnotherASIsExplained(t *testing.T) {
	newFRR(t, frrConfig)
	d := run(t)
	p := frrPeer("tor1", frrIPv4)
	p.RemoteASN = 64999
	d.SyncPeers([]Peer{p})
	d.observesReason(t, SessionFailed, "tor1", "peer says AS 64513, configured 64999")

	p = frrPeer("tor1", frrIPv4)
	p.LocalASN = 65000
	d.SyncPeers([]Peer{p})
	d.observesReason(t, SessionFailed, "tor1", "it does not expect AS 65000")
}

func TestFRRWithAPassword(t *testing.T) {
	f := newFRR(t, frrConfig+" neighbor 10.0.0.9 password sesame\n neighbor 2001:db8::9 password open\n")
	for _, c := range []struct{ address, password string }{{frrIPv4, "sesame"}, {frrIPv6, "open"}} {
		t.Run(c.address, func(t *testing.T) {
			d := run(t)
			p := frrPeer("tor1", c.address)
			p.Password = "another"
			d.SyncPeers([]Peer{p})
			d.observesReason(t, SessionFailed, "tor1", "it has another password")
			p.Password = c.password
			d.SyncPeers([]Peer{p})
			d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8:1::1/128"))
			f.has(t, "192.0.2.1/32", "2001:db8:1::1/128")
		})
	}
}

// A wrong password is said, in whatever way it is wrong.
func TestWrongPasswordIsSaid(t *testing.T) {
	for _, c := range []struct{ name, router, want string }{
		{"another", " neighbor 10.0.0.9 password sesame\n", "it has another password"},
		{"none", "", "it has no password for this node"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFRR(t, frrConfig+c.router)
			d := run(t)
			p := frrPeer("tor1", frrIPv4)
			p.Password = "open"
			d.SyncPeers([]Peer{p})
			d.observesReason(t, SessionFailed, "tor1", c.want)
			d.becomes(t, func(st Status) bool { return strings.Contains(st.Peers[0].LastError, c.want) })
			f.has(t)
		})
	}
}

func TestABlackHoledPeerDelaysNeitherOtherPeersNorRoutes(t *testing.T) {
	f := newFRR(t, frrConfig)
	command(t, "ip", "route", "add", "10.9.9.9/32", "via", frrIPv4)
	d := run(t)
	hole := frrPeer("hole", "10.9.9.9")
	hole.EBGPMultihop = 3
	d.SyncPeers([]Peer{hole})
	d.observesReason(t, SessionFailed, "hole", "cannot connect: i/o timeout") // it is being dialed
	d.SyncPeers([]Peer{hole, frrPeer("tor1", frrIPv4)})
	began := time.Now()
	d.Sync("group-0", routes(nil, "192.0.2.0/32"))
	f.has(t, "192.0.2.0/32")
	if took := time.Since(began); took > 6*time.Second {
		t.Errorf("first route arrived after %s", took)
	}
	want := []string{"192.0.2.0/32"}
	for i := 1; i <= 20; i++ {
		prefix := fmt.Sprintf("192.0.2.%d/32", i)
		want = append(want, prefix)
		began := time.Now()
		d.Sync(fmt.Sprintf("group-%d", i), routes(nil, prefix))
		f.has(t, want...)
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s arrived after %s", prefix, took)
		}
	}
	if s := d.session(t, "hole"); s.Established() {
		t.Errorf("the black hole answered: %+v", s)
	}
}

func TestAPeerThatStopsAnsweringIsNoticedByTheHoldTimerAndDelaysNobody(t *testing.T) {
	f := newFRR(t, frrConfig)
	tor2 := newRouter(t, "127.0.0.2", 64514, nodeASN)
	d := run(t)
	d.SyncPeers([]Peer{frrPeer("tor1", frrIPv4), tor2.peer("tor2", nodeASN)})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	f.has(t, "192.0.2.1/32")
	tor2.has(t, "192.0.2.1/32")

	must(t, f.bgpd.Process.Signal(syscall.SIGSTOP))
	defer func() { must(t, f.bgpd.Process.Signal(syscall.SIGCONT)) }()
	began := time.Now()
	var many []string
	for i := range 2000 {
		many = append(many, fmt.Sprintf("198.18.%d.%d/32", i/250, i%250))
	}
	d.Sync("web", routes(nil, many...))
	tor2.has(t, slices.Clone(many)...)
	if took := time.Since(began); took > 2500*time.Millisecond {
		t.Errorf("the other peer had to wait %s", took)
	}
	o := d.observes(t, SessionDown, "tor1")
	if !strings.Contains(o.Reason, "hold timer expired") {
		t.Errorf("reason %q", o.Reason)
	}
	if took := o.Time.Sub(began); took > 5*time.Second {
		t.Errorf("noticed after %s, hold time 3 s", took)
	}
}

// said is what FRR knows of a prefix, of its first path.
func (f *frr) said(t *testing.T, family, prefix string) string {
	t.Helper()
	var entry struct {
		Paths []struct {
			ASPath            struct{ String string } `json:"aspath"`
			Metric            *uint32
			LocPrf            *uint32
			Stale             bool
			Community         struct{ String string }
			LargeCommunity    struct{ String string }
			ExtendedCommunity struct{ String string }
			Nexthops          []struct{ IP string }
		}
	}
	if err := json.Unmarshal([]byte(f.vtysh("bgpd", "show bgp "+family+" unicast "+prefix+" json")), &entry); err != nil ||
		len(entry.Paths) == 0 {
		return "nothing"
	}
	p := entry.Paths[0]
	text := "path " + p.ASPath.String + " via " + p.Nexthops[0].IP
	for _, n := range []struct {
		name string
		n    *uint32
	}{{"med", p.Metric}, {"local", p.LocPrf}} {
		if n.n != nil {
			text += fmt.Sprintf(", %s %d", n.name, *n.n)
		}
	}
	for _, s := range []struct{ name, text string }{
		{"community", p.Community.String}, {"large", p.LargeCommunity.String}, {"extended", p.ExtendedCommunity.String},
	} {
		if s.text != "" {
			text += ", " + s.name + " " + s.text
		}
	}
	if p.Stale {
		text += ", stale"
	}
	return text
}

func (f *frr) says(t *testing.T, family, prefix, want string) {
	t.Helper()
	f.await(
		t,
		prefix+" with "+want,
		func() bool { return f.said(t, family, prefix) == want },
		func() string { return f.said(t, family, prefix) },
	)
}

func TestFRRSeesTheAttributesOfRoutes(t *testing.T) {
	f := newFRR(t, frrConfig)
	d := run(t)
	med := uint32(30)
	d.SyncPeers([]Peer{frrPeer("tor1", frrIPv4)})
	d.Sync("web", Desired{Routes: []Route{
		{
			Prefix: netip.MustParsePrefix("192.0.2.1/32"),
			Attributes: Attributes{MED: &med, Weight: 3, Communities: []community.Community{
				{A: 64512, B: 100}, {A: 65535, B: 65281}, {Large: true, Global: 64512, A: 1, B: 2}}},
		},
		{Prefix: netip.MustParsePrefix("2001:db8:1::1/128"), Attributes: Attributes{Prepend: 2, LocalPref: &med}},
		{
			Prefix:     netip.MustParsePrefix("192.0.2.64/26"),
			Peers:      []string{"tor1"},
			Attributes: Attributes{Prepend: 1, Weight: 7},
		},
	}})
	f.says(t, "ipv4", "192.0.2.1/32", "path 64512 via 10.0.0.9, med 30, community 64512:100 no-export, large 64512:1:2, extended LB:64512:375000 (3.000 Mbps)")
	f.says(t, "ipv6", "2001:db8:1::1/128", "path 64512 64512 64512 via 2001:db8::9")
	f.says(t, "ipv4", "192.0.2.64/26", "path 64512 64512 via 10.0.0.9, extended LB:64512:875000 (7.000 Mbps)")
}

func TestFRRKeepsTheRoutesOfASpeakerThatIsReplaced(t *testing.T) {
	f := newFRR(
		t,
		strings.Replace(
			frrConfig,
			" no bgp ebgp-requires-policy\n",
			" no bgp ebgp-requires-policy\n bgp graceful-restart\n",
			1,
		),
	)
	peer := frrPeer("tor1", frrIPv4)
	peer.GracefulRestart = 100 * time.Second
	d := run(t)
	d.SyncPeers([]Peer{peer})
	d.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8:1::1/128"))
	d.Sync("old", routes(nil, "192.0.2.2/32"))
	f.has(t, "192.0.2.1/32", "192.0.2.2/32", "2001:db8:1::1/128")
	d.up(t, "tor1")
	if s := d.session(t, "tor1"); !s.KeepsRoutes {
		t.Error("graceful restart was not negotiated")
	}
	d.Restart()
	d.stop()
	f.says(t, "ipv4", "192.0.2.1/32", "path 64512 via 10.0.0.9, stale")
	f.has(t, "192.0.2.1/32", "192.0.2.2/32", "2001:db8:1::1/128")

	again := run(t)
	again.SyncPeers([]Peer{peer})
	again.Sync("web", routes(nil, "192.0.2.1/32", "2001:db8:1::1/128"))
	f.says(t, "ipv4", "192.0.2.1/32", "path 64512 via 10.0.0.9")
	f.has(t, "192.0.2.1/32", "2001:db8:1::1/128") // what is not announced again goes

	again.stop() // without Restart: with a word, and the routes go
	f.has(t)
}

func TestFRRWithTTLSecurity(t *testing.T) {
	// FRR's kernel drops what comes with a TTL below 255, of which eBGP's is 1 without TTL security.
	f := newFRR(t, frrConfig+" neighbor node ttl-security hops 1\n")
	d := run(t)
	peer := frrPeer("tor1", frrIPv4)
	peer.TTLSecurityHops = 1
	d.SyncPeers([]Peer{peer})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	f.has(t, "192.0.2.1/32")
}

func TestTTLSecurityCountsTheHops(t *testing.T) {
	// FRR sends with a TTL of 253, as what comes from three hops away has.
	f := newFRR(t, frrConfig+" neighbor node ebgp-multihop 253\n")
	d := run(t)
	peer := frrPeer("tor1", frrIPv4)
	peer.TTLSecurityHops = 3
	d.SyncPeers([]Peer{peer})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	f.has(t, "192.0.2.1/32")
	peer.TTLSecurityHops = 2
	d.SyncPeers([]Peer{peer})
	f.has(t)
	// While sessions over IPv6 come and go the one over IPv4 does not come.
	for range 3 {
		six := frrPeer("tor2", frrIPv6)
		six.EBGPMultihop = 253
		d.SyncPeers([]Peer{peer, six})
		f.await(t, "the session over IPv6", func() bool { return f.neighbor(t, "2001:db8::9").BgpState == "Established" })
		d.SyncPeers([]Peer{peer})
		f.await(t, "its end", func() bool { return f.neighbor(t, "2001:db8::9").BgpState != "Established" })
		if n := f.neighbor(t, "10.0.0.9"); n.BgpState == "Established" {
			t.Errorf("FRR, which is three hops away, has a session: %+v", n)
		}
	}
	peer.TTLSecurityHops = 3
	d.SyncPeers([]Peer{peer})
	f.has(t, "192.0.2.1/32")
}

func TestFRRIsReachedThroughTheDeviceOfAPeer(t *testing.T) {
	f := newFRR(t, frrConfig)
	d := run(t)
	peer := frrPeer("tor1", frrIPv4)
	peer.VRF = "lo" // where it is not
	d.SyncPeers([]Peer{peer})
	d.Sync("web", routes(nil, "192.0.2.1/32"))
	d.observesReason(t, SessionFailed, "tor1", "cannot connect")
	peer.VRF, peer.RemoteASN = f.link, 64999
	d.SyncPeers([]Peer{peer})
	d.observesReason(t, SessionFailed, "tor1", "peer says AS 64513, configured 64999")
	peer.RemoteASN = frrASN
	d.SyncPeers([]Peer{peer})
	f.has(t, "192.0.2.1/32")
}
