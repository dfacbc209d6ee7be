//go:build linux

package lab

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Status is the state of a lab.
type Status struct {
	Hosts     []HostStatus
	Processes []Process
}

// HostStatus is the state of a host.
type HostStatus struct {
	Name      string
	Addresses []netip.Addr
	// State is "running" or "dead"; a node's has "Ready" or "NotReady" added, and "cut" when its cable
	// is out.
	State []string
}

// Status inspects every host. It omits what it cannot learn, for example while the API server is
// down.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	inits, err := l.inits()
	if err != nil {
		return Status{}, err
	}
	ready := l.readiness(ctx)
	var s Status
	for _, h := range l.plan.hosts {
		host := HostStatus{Name: h.name, Addresses: h.addresses(), State: []string{"running"}}
		if _, ok := inits[h.name]; !ok {
			host.State[0] = "dead"
		} else {
			processes, err := l.processesOf(ctx, h.name)
			if err != nil {
				return Status{}, err
			}
			s.Processes = append(s.Processes, processes...)
		}
		if r, ok := ready[h.name]; ok {
			host.State = append(host.State, r)
		}
		if l.isCut(h) {
			host.State = append(host.State, "cut")
		}
		s.Hosts = append(s.Hosts, host)
	}
	return s, nil
}

func (l *Lab) readiness(ctx context.Context) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	client, err := l.client()
	if err != nil {
		return nil
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil
	}
	found := map[string]string{}
	for _, n := range nodes.Items {
		found[n.Name] = "NotReady"
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				found[n.Name] = "Ready"
			}
		}
	}
	return found
}

// isCut reports whether a host's port at the switch is down.
func (l *Lab) isCut(h hostPlan) bool {
	if l.onSegment(h.name) != nil {
		return false
	}
	handle, err := l.netlink(rack)
	if err != nil {
		return false
	}
	defer handle.Close()
	port, err := handle.LinkByName(h.name)
	return err == nil && port.Attrs().RawFlags&1 == 0 // IFF_UP
}

// Summary describes in a few lines where things are and what to do next.
func (l *Lab) Summary() string {
	flag := ""
	if l.opts.Name != "lab" {
		flag = " --name " + l.opts.Name
	}
	return fmt.Sprintf(`lab %q is up
  kubeconfig  %s
  logs        %s
go on with
  lab status%[4]s
  lab kubectl%[4]s get pods -A
  lab exec%[4]s client -- curl http://ADDRESS/
  lab down%[4]s
`, l.opts.Name, l.Kubeconfig(), l.LogDir(), flag)
}
