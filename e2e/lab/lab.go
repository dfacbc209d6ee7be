//go:build linux

// Package lab brings up a real Kubernetes cluster on one Linux machine, with a rack's network
// around it, and breaks it on request.
//
// Each host is a network namespace: the control plane, the nodes, a client on the nodes' segment, a
// top-of-rack router, and a client behind the router. What runs in them is real: etcd, the
// components of Kubernetes, containerd, FRR. Nothing is installed on the machine, and Down leaves
// nothing behind.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/berth-lb/berth/e2e/stock"
)

// Options say what lab to bring up. The zero value is a lab named "lab" of one node, IPv4 only,
// without a router daemon, with kube-proxy on nftables.
type Options struct {
	// Name distinguishes labs that run side by side: lower-case letters and digits, at most 12.
	Name string
	// Nodes is the number of nodes, 1 to 80. 0 means 1.
	Nodes int
	// Router is "frr" for a router that speaks BGP, or "none" (also "") for one that only forwards.
	Router string
	// DualStack gives hosts, pods and Services IPv6 addresses too.
	DualStack bool
	// DNS runs CoreDNS in the cluster, as stock.BuildDNS built it, at the address that Pods ask.
	DNS bool
	// ProxyMode is kube-proxy's: "nftables" (also "") or "iptables".
	ProxyMode string
	// StockGrace: Kubernetes notices that a node is silent after 50 s, as by default, and not
	// after 6 s.
	StockGrace bool
	// Kubernetes is the version of Kubernetes, such as "v1.34.4", as stock.BuildKubernetes built it.
	// "" is the lab's own.
	Kubernetes string
	// Keep leaves the remains of a failed Up in place, so that one can look at the logs.
	Keep bool `json:"-"`
	// Log receives a line for each step. nil discards them.
	Log io.Writer `json:"-"`
}

func (o Options) withDefaults() (Options, error) {
	if o.Name == "" {
		o.Name = "lab"
	}
	if o.Nodes == 0 {
		o.Nodes = 1
	}
	if o.Router == "" {
		o.Router = "none"
	}
	if o.ProxyMode == "" {
		o.ProxyMode = "nftables"
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	switch {
	case !validName(o.Name):
		return o, fmt.Errorf("lab name %q: want 1 to 12 lower-case letters and digits", o.Name)
	case o.Nodes < 1 || o.Nodes > 80:
		return o, fmt.Errorf("%d nodes: want 1 to 80", o.Nodes)
	case o.Router != "frr" && o.Router != "none":
		return o, fmt.Errorf("router %q: want frr or none", o.Router)
	case o.ProxyMode != "nftables" && o.ProxyMode != "iptables":
		return o, fmt.Errorf("proxy mode %q: want nftables or iptables", o.ProxyMode)
	}
	return o, nil
}

func validName(name string) bool { return regexp.MustCompile(`^[a-z0-9]{1,12}$`).MatchString(name) }

// Lab is a lab that is up. Its methods may be called from several goroutines.
type Lab struct {
	opts   Options
	folder stock.Folder
	plan   plan
}

// Up brings a lab up and returns once all nodes are Ready and every kube-proxy is healthy. On an
// error, or when ctx ends, it takes down again what it brought up. The lab outlives the calling
// process.
func Up(ctx context.Context, opts Options) (*Lab, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	folder, err := stock.Find()
	if err != nil {
		return nil, err
	}
	l := &Lab{opts: opts, folder: folder, plan: newPlan(opts)}
	if err := l.preflight(); err != nil {
		return nil, err
	}
	if err := l.claim(ctx); err != nil {
		return nil, err
	}
	if err := l.assemble(ctx); err != nil {
		if opts.Keep {
			return nil, fmt.Errorf("%w (kept: see %s)", err, l.LogDir())
		}
		l.say("failed; taking everything down again")
		return nil, errors.Join(err, l.Down(context.WithoutCancel(ctx)))
	}
	return l, nil
}

// assemble does the work of Up, step by step.
func (l *Lab) assemble(ctx context.Context) error {
	begun := time.Now()
	step := func(name string, do func(context.Context) error) error {
		if err := do(ctx); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		l.say("%5.1f s  %s", time.Since(begun).Seconds(), name)
		return nil
	}
	return errors.Join(firstError(
		func() error { return step("network", l.buildNetwork) },
		func() error { return step("hosts", l.bootHosts) },
		func() error { return step("control plane, containerd and router", l.startBase) },
		func() error { return step("nodes Ready, kube-proxies healthy", l.startNodes) },
		func() error {
			if !l.opts.DNS {
				return nil
			}
			return step("DNS", l.startDNS)
		},
		func() error { return l.store(phaseUp) },
	))
}

func firstError(steps ...func() error) error {
	for _, do := range steps {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// Open returns the running lab of that name ("" for "lab").
func Open(name string) (*Lab, error) {
	if name == "" {
		name = "lab"
	}
	if !validName(name) {
		return nil, fmt.Errorf("lab name %q: want 1 to 12 lower-case letters and digits", name)
	}
	folder, err := stock.Find()
	if err != nil {
		return nil, err
	}
	if os.Getuid() != 0 {
		return nil, errNotRoot
	}
	l := &Lab{opts: Options{Name: name, Log: io.Discard}, folder: folder}
	s, err := l.load()
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no lab %q: bring one up with `lab up`", name)
	} else if err != nil {
		return nil, err
	}
	l.opts = s.Options
	l.opts.Log = io.Discard
	l.plan = newPlan(l.opts)
	return l, nil
}

// Name returns the lab's name.
func (l *Lab) Name() string { return l.opts.Name }

// Nodes returns the names of the nodes: n1, n2, and so on.
func (l *Lab) Nodes() []string { return l.plan.nodes() }

// Kubeconfig returns the path of an administrator's kubeconfig. The server in it can be reached
// from the lab's hosts only: see Kubectl and RESTConfig.
func (l *Lab) Kubeconfig() string { return filepath.Join(l.dir(), "pki", "admin.kubeconfig") }

// LogDir returns the folder of the logs, PROCESS@HOST.log and pods/. Down removes it.
func (l *Lab) LogDir() string { return filepath.Join(l.dir(), "log") }

// dir is where the lab keeps its state.
func (l *Lab) dir() string { return l.folder.Lab(l.opts.Name) }

func (l *Lab) say(format string, args ...any) { fmt.Fprintf(l.opts.Log, format+"\n", args...) }
