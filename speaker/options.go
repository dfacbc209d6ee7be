package speaker

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/internal/async"
	"github.com/berth-lb/berth/internal/trace"
	"github.com/berth-lb/berth/speaker/contact"
)

// Options of a Speaker.
type Options struct {
	Kubernetes kubernetes.Interface
	Berth      *client.Interface
	Events     events.EventRecorder
	Logger     *slog.Logger
	Metrics    prometheus.Registerer
	// Heart connects to the process that answers ARP, NDP and BFD on this node (package heart).
	Heart func(context.Context) (net.Conn, error)
	// BGP connects to the process that speaks BGP on this node (package bgpd). Nil: this one does.
	BGP func(context.Context) (net.Conn, error)
	// Contact watches the requests of Kubernetes and Berth. Nil: the speaker never takes its picture
	// of the API for out of date.
	Contact *contact.Monitor
	// Rewound is notified when the storage of the API server was restored to an older state. Nil:
	// never.
	Rewound async.Signal
	// Node on which the speaker runs.
	Node string
	// Namespace of Berth's own objects.
	Namespace string
	// DaemonSet of the speakers, in Namespace: while it exists, a speaker that is
	// told to end is being restarted.
	DaemonSet string
	// Version of the program.
	Version string
	// DrainTime is for how long routes are announced as a last resort before they are
	// withdrawn, when the node leaves (RFC 8326).
	DrainTime time.Duration
	// LeaveDelay is the time between the withdrawal of the routes and the end of the
	// BGP sessions, in which the routers move on and what still arrives is forwarded.
	LeaveDelay time.Duration
	// BGPListen is where routers may connect to this node, as host:port or :port. Empty:
	// nowhere, and BGPNeighbors that need it say so.
	BGPListen string
	// OnRestart says what a speaker does when it is being replaced. Empty: HandOver.
	OnRestart OnRestart
	// ProxyHealthz is the URL of kube-proxy's healthz on this node. While it answers 503
	// the node announces nothing. Empty: it is not asked.
	ProxyHealthz string
	// IPVS: this node forwards by IPVS for the pools that ask for it, if its kernel can.
	IPVS bool
	// Steering: this node steers connections for the pools that ask for it, if its kernel can.
	Steering bool
	// ReportSilent: the Speaker says which nodes this node heard and does not hear any more, and
	// whether their kernels answer, for a controller that fences dead nodes.
	ReportSilent bool
	// ProxyMode is the URL where kube-proxy on this node says in which mode it runs. Empty: it is not
	// asked.
	ProxyMode string
	// PodCIDRs are the ranges that pods of this node have their addresses from; none: those of its
	// Node's spec.
	PodCIDRs []netip.Prefix
	// Listen is where the speakers of all nodes serve their health, as host:port or :port. A node
	// that is not heard any more is asked there, too, whether it is alive. Empty: nowhere.
	Listen string
	// NoticeListen is where this node is told of deaths that it does not hear of, by UDP, as host:port
	// or :port; the others are told at the same port. Empty: it neither tells nor is told.
	NoticeListen string
	// MetricsPerService adds metrics with series for each Service and each endpoint.
	MetricsPerService bool
	// Trace remembers how sessions were; nil: nothing does.
	Trace *trace.Log
	// IPVSSysctls is the folder of the node's sysctls net.ipv4.vs. Empty: /proc/sys/net/ipv4/vs.
	IPVSSysctls string
}

// OnRestart is what a speaker does with the addresses it answers for when its process
// is being replaced.
type OnRestart string

const (
	// HandOver: others take them over first, and established connections through this
	// node break where the others do not know them.
	HandOver OnRestart = "hand-over"
	// Hold: the others are told to wait up to 10 s for the next process. Until it answers
	// no node does, and clients that have the MAC address or the route keep it.
	Hold OnRestart = "hold"
)
