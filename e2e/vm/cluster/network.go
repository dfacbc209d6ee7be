//go:build linux

package cluster

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/stage"
)

// Names of namespaces: the guest's own, and the client's. Those of nodes and pods have their names.
const (
	Host   = ""
	Client = "client"
)

// Addresses on the segment; node number i has 172.30.0.1i and fd00:30::1i.
const (
	server      = "172.30.0.1"
	ClientIPv4  = "172.30.0.100"
	ClientIPv6  = "fd00:30::100"
	segmentLink = "rack"
)

func makeSegment(t testing.TB) {
	t.Helper()
	Run(t, Host, "sysctl", "-qw", "kernel.hostname=host") // the API server writes it into a label
	ip(t,
		"link set lo up",
		"link add "+segmentLink+" type bridge mcast_snooping 0", "link set "+segmentLink+" up",
		"addr add "+server+"/24 dev "+segmentLink, "addr add fd00:30::1/64 dev "+segmentLink+" nodad",
	)
	join(t, Client, ClientIPv4, ClientIPv6)
}

// join makes a namespace on the segment.
func join(t testing.TB, name, ipv4, ipv6 string) {
	t.Helper()
	ip(t, "netns add "+name,
		"link add eth0 netns "+name+" type veth peer name "+name, "link set "+name+" master "+segmentLink+" up",
		"-n "+name+" link set lo up", "-n "+name+" link set eth0 up",
		"-n "+name+" addr add "+ipv4+"/24 dev eth0", "-n "+name+" addr add "+ipv6+"/64 dev eth0 nodad",
	)
}

// Node is a node of the cluster: a namespace on the segment, with a bridge cni0 for its pods, and a Node object that is ready.
type Node struct {
	Name       string
	IPv4, IPv6 string // on the segment

	number int
	pods   int
}

// AddNode adds a node whose pods all nodes have routes to; number is from 1 to 9.
func (c *Cluster) AddNode(t testing.TB, number int) *Node {
	t.Helper()
	n := &Node{Name: fmt.Sprint("n", number), IPv4: fmt.Sprint("172.30.0.1", number), IPv6: fmt.Sprint("fd00:30::1", number), number: number}
	join(t, n.Name, n.IPv4, n.IPv6)
	Run(t, n.Name, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	ip(t,
		"-n "+n.Name+" link add cni0 type bridge", "-n "+n.Name+" link set cni0 up",
		"-n "+n.Name+" addr add "+n.Gateway4()+"/24 dev cni0", "-n "+n.Name+" addr add "+n.Gateway6()+"/64 dev cni0 nodad",
	)
	for other := 1; other <= 9; other++ {
		if o := (&Node{number: other}); other != number {
			ip(t,
				fmt.Sprintf("-n %s route add %s via 172.30.0.1%d", n.Name, o.PodCIDRs()[0], other),
				fmt.Sprintf("-n %s route add %s via fd00:30::1%d", n.Name, o.PodCIDRs()[1], other),
			)
		}
	}
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name}, Spec: corev1.NodeSpec{PodCIDR: n.PodCIDRs()[0], PodCIDRs: n.PodCIDRs()}}
	created, err := c.Kubernetes.CoreV1().Nodes().Create(t.Context(), object, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	created.Status = corev1.NodeStatus{
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: n.IPv4}, {Type: corev1.NodeInternalIP, Address: n.IPv6}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Test"}},
	}
	if _, err := c.Kubernetes.CoreV1().Nodes().UpdateStatus(t.Context(), created, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	return n
}

// PodCIDRs are those of the node, of IPv4 and IPv6.
func (n *Node) PodCIDRs() []string {
	return []string{fmt.Sprintf("10.244.%d.0/24", n.number), fmt.Sprintf("fd00:244:%d::/64", n.number)}
}

// Gateway4 is the node's IPv4 address towards its pods, which they see as their client when it masquerades.
func (n *Node) Gateway4() string { return fmt.Sprintf("10.244.%d.254", n.number) }

// Gateway6 is its IPv6 address there.
func (n *Node) Gateway6() string { return fmt.Sprintf("fd00:244:%d::fe", n.number) }

// MAC is that of the node on the segment.
func (n *Node) MAC(t testing.TB) string {
	t.Helper()
	return strings.TrimSpace(Run(t, n.Name, "cat", "/sys/class/net/eth0/address"))
}

// Cut takes the node off the segment, all of it at once.
func (n *Node) Cut(t testing.TB) { t.Helper(); ip(t, "link set "+n.Name+" down") }

// Mend puts it back.
func (n *Node) Mend(t testing.TB) { t.Helper(); ip(t, "link set "+n.Name+" up") }

// Pod is an echo server in a namespace of its own, of the pod's name: HTTP on port 8080, lines by TCP and UDP on 7000.
type Pod struct {
	Name       string
	Node       string
	IPv4, IPv6 string
}

// AddPod starts a pod on the node. It is no object of the API.
func (c *Cluster) AddPod(t testing.TB, n *Node) Pod {
	t.Helper()
	n.pods++
	p := Pod{
		Name: fmt.Sprintf("pod-%d-%d", n.number, n.pods), Node: n.Name,
		IPv4: fmt.Sprintf("10.244.%d.%d", n.number, n.pods), IPv6: fmt.Sprintf("fd00:244:%d::%x", n.number, n.pods),
	}
	ip(t, "netns add "+p.Name,
		"-n "+p.Name+" link add eth0 type veth peer name "+p.Name+" netns "+n.Name,
		"-n "+n.Name+" link set "+p.Name+" master cni0 up",
		"-n "+p.Name+" link set lo up", "-n "+p.Name+" link set eth0 up",
		"-n "+p.Name+" addr add "+p.IPv4+"/24 dev eth0", "-n "+p.Name+" addr add "+p.IPv6+"/64 dev eth0 nodad",
		"-n "+p.Name+" route add default via "+n.Gateway4(), "-n "+p.Name+" route add default via "+n.Gateway6(),
	)
	c.Start(t, p.Name, p.Name, []string{"POD_NAME=" + p.Name, "NODE_NAME=" + p.Node}, c.folder.Bin("echo"))
	return p
}

// Run runs a program in a namespace, and returns its output.
func Run(t testing.TB, space, name string, args ...string) string {
	t.Helper()
	argv := within(space, append([]string{name}, args...))
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

func within(space string, argv []string) []string {
	if space == Host {
		return argv
	}
	return append([]string{"ip", "netns", "exec", space}, argv...)
}

// ip carries out lines of ip(8).
func ip(t testing.TB, lines ...string) {
	t.Helper()
	for _, line := range lines {
		Run(t, Host, "ip", strings.Fields(line)...)
	}
}

// In runs f on a thread in a namespace: sockets that it makes stay there.
func In[T any](space string, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		var r result
		if space != Host {
			var handle netns.NsHandle
			if handle, r.err = netns.GetFromName(space); r.err == nil {
				r.err = errors.Join(netns.Set(handle), handle.Close())
			}
		}
		if r.err == nil {
			r.value, r.err = f()
		}
		done <- r
	}()
	r := <-done
	return r.value, r.err
}

// Dial connects from a namespace, to an address of one host.
func Dial(space, network, host string, port int) (net.Conn, error) {
	return DialFrom(space, network, 0, host, port)
}

// DialFrom is Dial from a port; 0: any.
func DialFrom(space, network string, from int, host string, port int) (net.Conn, error) {
	return In(space, func() (net.Conn, error) {
		d := net.Dialer{Timeout: 10 * time.Second}
		switch {
		case from == 0:
		case strings.HasPrefix(network, "tcp"):
			d.LocalAddr = &net.TCPAddr{Port: from}
		default:
			d.LocalAddr = &net.UDPAddr{Port: from}
		}
		return d.Dial(network, net.JoinHostPort(host, strconv.Itoa(port)))
	})
}

// Say says a line on a connection, and returns the answer.
func Say(conn net.Conn) (stage.Answer, error) {
	var answer stage.Answer
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return answer, err
	}
	if _, err := conn.Write([]byte("hello\n")); err != nil {
		return answer, err
	}
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	if err != nil {
		return answer, err
	}
	return answer, json.Unmarshal(line, &answer)
}

// Ask asks over HTTP from a namespace, on a new connection.
func Ask(ctx context.Context, space, host string, port int) (stage.Answer, error) {
	var answer stage.Answer
	url := "http://" + net.JoinHostPort(host, strconv.Itoa(port)) + "/"
	out, err := Get(ctx, space, url)
	if err != nil {
		return answer, err
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return answer, fmt.Errorf("%s answered %q: %w", url, out, err)
	}
	return answer, nil
}

// Get returns what is at a URL, from a namespace.
func Get(ctx context.Context, space, url string) (string, error) {
	argv := within(space, []string{"curl", "-sS", "--globoff", "--max-time", "3", url})
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask %s from %q: %w: %s", url, space, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}

// Neighbour returns the MAC address that the client has for an address on the segment, after it forgot and asked anew.
func Neighbour(t testing.TB, address string) string {
	t.Helper()
	ip(t, "-n "+Client+" neigh flush dev eth0")
	if conn, err := Dial(Client, "udp", address, 9); err == nil { // the kernel asks, whatever comes of it
		_, _ = conn.Write([]byte("?"))
		_ = conn.Close()
	}
	var mac string
	Eventually(t, func(context.Context) error {
		fields := strings.Fields(Run(t, Client, "ip", "neigh", "show", address))
		for i, f := range fields {
			if f == "lladdr" && i+1 < len(fields) {
				mac = fields[i+1]
				return nil
			}
		}
		return fmt.Errorf("nobody answers for %s: %v", address, fields)
	})
	return mac
}
