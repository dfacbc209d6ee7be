// Package probe is what kubectl berth doctor --nodes and the pods that it runs on nodes tell each
// other: a Request in the arguments of a pod, and Reports on its standard output, one JSON object a
// line, of which the last one counts. Package measure does what is asked.
package probe

import (
	"net/netip"
	"time"

	"go4.org/netipx"
)

const (
	// HelloInterval is the least time between two messages of a probe on a segment.
	HelloInterval = 100 * time.Millisecond
	// Hearing is for how long a probe must have sent and listened at the same time as another one
	// before a message that was not heard counts as lost.
	Hearing = 2 * time.Second
)

// Request is what the probe of one node is asked to do.
type Request struct {
	Node string `json:"node"`
	// Cluster tells this cluster's messages from another's: the UID of namespace kube-system; empty:
	// not known, and messages of all clusters count.
	Cluster string `json:"cluster,omitempty"`
	// InternalIPs are the node's.
	InternalIPs []netip.Addr `json:"internalIPs,omitempty"`
	// Asks are the addresses to ask for.
	Asks []Ask `json:"asks,omitempty"`
	// Pause is the time between two questions on an interface; 0: 10 ms.
	Pause time.Duration `json:"pause,omitempty"`
	// Greet is the time between two messages to other nodes; 0: HelloInterval.
	Greet time.Duration `json:"greet,omitempty"`
	// IPVS: whether the kernel has it matters; it loads ip_vs to find out.
	IPVS bool `json:"ipvs,omitempty"`
	// Speaks are the interfaces on which the node's speaker sends hellos: the probe sends nothing of
	// its own there.
	Speaks []string `json:"speaks,omitempty"`
	// Interfaces are patterns of those that are segments, as in Ask.
	Interfaces []string `json:"interfaces,omitempty"`
	// Peers are other nodes, to which the path is measured.
	Peers []Peer `json:"peers,omitempty"`
	// Routers are those that the node has sessions with.
	Routers []Router `json:"routers,omitempty"`
}

// Ask is addresses, and where to ask for them.
type Ask struct {
	// Interfaces are names or patterns as in path.Match; "" stands for those that hold an InternalIP
	// of the node.
	Interfaces []string         `json:"interfaces"`
	Ranges     []netipx.IPRange `json:"ranges"`
}

// Peer is another node.
type Peer struct {
	Node      string       `json:"node"`
	Addresses []netip.Addr `json:"addresses"`
}

// Router is a BGPNeighbor, as far as it matters to a connection.
type Router struct {
	Neighbor string     `json:"neighbor"`
	Address  netip.Addr `json:"address"`
	// Port is its TCP port; 0: 179.
	Port uint16 `json:"port,omitempty"`
	// Source is our end; the zero Addr: the kernel chooses.
	Source    netip.Addr `json:"source,omitzero"`
	VRF       string     `json:"vrf,omitempty"`
	LocalASN  uint32     `json:"localASN,omitempty"`
	RemoteASN uint32     `json:"remoteASN,omitempty"`
	// EBGPMultihop and TTLSecurityHops are those of the session.
	EBGPMultihop    uint8 `json:"ebgpMultihop,omitempty"`
	TTLSecurityHops uint8 `json:"ttlSecurityHops,omitempty"`
	// Secret is the name of the Secret with the password; empty: there is none.
	Secret string `json:"secret,omitempty"`
	// PasswordFile has the password; empty: it is not to be tried.
	PasswordFile string `json:"passwordFile,omitempty"`
}

// Report is what a probe saw until now.
type Report struct {
	Node string `json:"node"`
	// Done: all but Link.Hears is final.
	Done    bool     `json:"done"`
	Links   []Link   `json:"links"`
	Answers []Answer `json:"answers,omitempty"`
	Routers []Knock  `json:"routers,omitempty"`
	Paths   []Path   `json:"paths,omitempty"`
	Kernel  Kernel   `json:"kernel,omitzero"`
	// Failures are what could not be measured, and why.
	Failures []string `json:"failures,omitempty"`
}

// Link is an interface of the node.
type Link struct {
	Name    string         `json:"name"`
	MAC     string         `json:"mac"`
	MTU     int            `json:"mtu"`
	Up      bool           `json:"up"`
	Subnets []netip.Prefix `json:"subnets,omitempty"`
	// Segment: it is one on which the probe asked and listened.
	Segment bool `json:"segment,omitempty"`
	// Asked is how many addresses were asked for on it.
	Asked int `json:"asked,omitempty"`
	// Hears are the nodes whose messages arrived, ascending.
	Hears []string `json:"hears,omitempty"`
	// Proxies are the MAC addresses of those who answer for addresses that nobody has.
	Proxies []string `json:"proxies,omitempty"`
	// ReversePath is net.ipv4.conf.NAME.rp_filter or that of all, whichever is higher: 0 off, 1
	// strict, 2 loose (RFC 3704).
	ReversePath int `json:"reversePath,omitempty"`
	// Replies are the interfaces by which replies to clients beyond the segment leave, over IPv4 and
	// over IPv6.
	Replies4 []string `json:"replies4,omitempty"`
	Replies6 []string `json:"replies6,omitempty"`
}

// Rounds is how many times each address is asked for.
const Rounds = 2

// Answer is that a host answered for an address.
type Answer struct {
	Address   netip.Addr `json:"address"`
	Interface string     `json:"interface"`
	MAC       string     `json:"mac"`
	// Rounds are those in which it answered: bit 0 is the first one.
	Rounds uint8 `json:"rounds"`
}

// Knock is what came of a connection to a router.
type Knock struct {
	Neighbor string     `json:"neighbor"`
	Address  netip.Addr `json:"address"`
	// Established: the node has a connection with it already, so no other one was tried: to a router
	// with graceful restart it would mean that the node restarted (RFC 4724 section 4.2).
	Established bool `json:"established,omitempty"`
	// Failure is why the connection failed; empty: it did not.
	Failure string `json:"failure,omitempty"`
	// Signature: Failure is about the password.
	Signature bool `json:"signature,omitempty"`
	// Untried: whether it accepts the password was not tried.
	Untried bool `json:"untried,omitempty"`
}

// Path is the way to another node.
type Path struct {
	Node      string     `json:"node"`
	Address   netip.Addr `json:"address"`
	Interface string     `json:"interface"`
	// MTU is the interface's, and Largest the length of the longest packet that was answered; 0: none
	// was, which says nothing. Both are in bytes, with the IP header.
	MTU     int `json:"mtu"`
	Largest int `json:"largest"`
}

// Presence says whether a kernel has something.
type Presence string

const (
	Present Presence = "Present"
	// Absent: it is not there, and cannot be loaded.
	Absent Presence = "Absent"
	// NotLoaded: it is no part of the kernel now; whether there is a module is not known.
	NotLoaded Presence = "NotLoaded"
	// Unknown: this could not be found out.
	Unknown Presence = ""
)

// Kernel is what the kernel of a node has.
type Kernel struct {
	Release   string   `json:"release,omitempty"`
	NFTables  Presence `json:"nftables,omitempty"`
	Conntrack Presence `json:"conntrack,omitempty"`
	IPVS      Presence `json:"ipvs,omitempty"`
}
