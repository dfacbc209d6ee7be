//go:build release

package release

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/soak"
	"github.com/berth-lb/berth/e2e/stage"
)

// soakProcesses are Berth's containers.
var soakProcesses = []string{"speaker", "heart", "bgp", "controller"}

// clusterWide are the kinds of Berth's objects that are in no namespace, and those of the
// application; ownKinds are those in Berth's namespace.
const (
	clusterWide = "loadbalancerpools.berth.dev,segmentannouncements.berth.dev,routeannouncements.berth.dev," +
		"bgpneighbors.berth.dev,speakers.berth.dev,l2owners.berth.dev,services,endpointslices.discovery.k8s.io"
	ownKinds = "secrets,configmaps,leases.coordination.k8s.io,pods"
)

// sample notes memory and goroutines for the plot: of each kind of process those of the largest.
func (s *soaking) sample(ctx context.Context) {
	memory, goroutines := map[string]float64{}, map[string]float64{}
	largest := func(all map[string]float64, where string, value float64) {
		kind, _, _ := strings.Cut(where, "@")
		all[kind] = max(all[kind], value)
	}
	counted := soak.Census{}
	// What is down for the moment is not counted.
	_ = errors.Join(s.countProcesses(ctx, counted), s.countGoroutines(ctx, counted))
	for thing, value := range counted {
		switch thing.What {
		case soak.Memory:
			largest(memory, thing.Where, value)
		case soak.Goroutines:
			largest(goroutines, thing.Where, value)
		}
	}
	s.figures.mu.Lock()
	defer s.figures.mu.Unlock()
	for kind, value := range memory {
		s.figures.memory[kind] = append(s.figures.memory[kind], s.point(value))
	}
	for kind, value := range goroutines {
		s.figures.goroutines[kind] = append(s.figures.goroutines[kind], s.point(value))
	}
}

// census counts everything that must not grow.
func (s *soaking) census(t *testing.T) soak.Census {
	t.Helper()
	var c soak.Census
	eventually(t, func(ctx context.Context) error {
		c = soak.Census{}
		for _, count := range []func(context.Context, soak.Census) error{
			s.countProcesses, s.countGoroutines, s.countKernel, s.countRouter, s.countObjects,
		} {
			if err := count(ctx, c); err != nil {
				return err
			}
		}
		return nil
	})
	return c
}

// countProcesses counts memory and open files of Berth's processes. The controllers move from node
// to node: the largest counts.
func (s *soaking) countProcesses(ctx context.Context, c soak.Census) error {
	status, err := s.Status(ctx)
	if err != nil {
		return err
	}
	for _, p := range status.Processes {
		name, _, _ := strings.Cut(p.Name, "@")
		if p.PID == 0 || !strings.HasPrefix(p.Pod, stage.Namespace+"/") || !slices.Contains(soakProcesses, name) {
			continue
		}
		where := name + "@" + p.Host
		if name == "controller" {
			where = name
		}
		resident, files := 0.0, 0.0
		for _, pid := range family(p.PID) {
			resident += residentMiB(pid)
			open, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)) // none, once it has ended
			files += float64(len(open))
		}
		memory, opened := soak.Thing{What: soak.Memory, Where: where}, soak.Thing{What: soak.Files, Where: where}
		c[memory], c[opened] = max(c[memory], resident), max(c[opened], files)
	}
	return nil
}

// family returns a process and those that it has started.
func family(pid int) []int {
	all := []int{pid}
	// The threads of a process know which of its children they have started.
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is a good one
	for _, file := range threads {
		text, _ := os.ReadFile(file) // empty, once the thread has ended
		for _, child := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(child); err == nil {
				all = append(all, family(n)...)
			}
		}
	}
	return all
}

// residentMiB returns how much memory of its own a process has, in MiB; 0 once it has ended.
func residentMiB(pid int) float64 {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var kiB float64
		if n, _ := fmt.Sscanf(lines.Text(), "RssAnon: %f kB", &kiB); n == 1 {
			return kiB / 1024
		}
	}
	return 0
}

// countGoroutines asks the processes that have metrics.
func (s *soaking) countGoroutines(ctx context.Context, c soak.Census) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var failed []error
	note := func(where, text string, err error) {
		number, found := soak.Metric(text, "go_goroutines")
		if !found {
			failed = append(failed, fmt.Errorf("%s does not say how many goroutines it has: %w", where, err))
			return
		}
		thing := soak.Thing{What: soak.Goroutines, Where: where}
		c[thing] = max(c[thing], number)
	}
	for _, node := range s.Nodes() {
		text, err := s.metrics(ctx, node)
		note("speaker@"+node, text, err)
	}
	pods, err := s.Kubernetes.CoreV1().Pods(stage.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return errors.Join(append(failed, err)...)
	}
	for _, pod := range pods.Items {
		address, err := netip.ParseAddr(pod.Status.PodIP)
		if !strings.HasPrefix(pod.Name, "berth-controller-") || err != nil || pod.DeletionTimestamp != nil {
			continue
		}
		text, err := s.get(ctx, lab.ControlPlane, "http://"+netip.AddrPortFrom(address, 7470).String()+"/metrics")
		note("controller", text, err)
	}
	return errors.Join(failed...)
}

// countKernel counts what Berth has in the nodes' kernels. Pods move, so routes and rules count
// that are of no Pod.
func (s *soaking) countKernel(ctx context.Context, c soak.Census) error {
	for _, node := range s.Nodes() {
		out, err := s.Exec(ctx, node, "nft", "-j", "list", "ruleset").Output()
		if err != nil {
			return fmt.Errorf("nftables of %s: %w", node, err)
		}
		// An owner and a Pod's node have more of them than others, and both move.
		if err := c.AddRuleset(out, "all nodes"); err != nil {
			return fmt.Errorf("nftables of %s: %w", node, err)
		}
		for what, command := range map[string][]string{
			"routes":       {"ip", "-4", "route", "show", "table", "all"},
			"IPv6 routes":  {"ip", "-6", "route", "show", "table", "all"},
			"rules":        {"ip", "-4", "rule"},
			"IPv6 rules":   {"ip", "-6", "rule"},
			"pinned files": {"sh", "-c", "ls -R /sys/fs/bpf | grep -v :$ || true"},
		} {
			out, err := s.Exec(ctx, node, command...).Output()
			if err != nil {
				return fmt.Errorf("%s of %s: %w", what, node, err)
			}
			for line := range strings.Lines(string(out)) {
				if strings.TrimSpace(line) != "" && !strings.Contains(line, "veth") {
					c[soak.Thing{What: what, Where: node}]++
				}
			}
		}
	}
	return nil
}

// countRouter counts the routes that the router's BGP has.
func (s *soaking) countRouter(ctx context.Context, c soak.Census) error {
	for _, family := range []string{"ipv4", "ipv6"} {
		out, err := s.Vtysh(ctx, "show bgp "+family+" unicast json")
		if err != nil {
			return err
		}
		var table struct{ Routes map[string][]json.RawMessage }
		if err := json.Unmarshal([]byte(out), &table); err != nil {
			return fmt.Errorf("the router's table: %w in %q", err, out)
		}
		for _, paths := range table.Routes {
			c[soak.Thing{What: "paths of BGP, " + family, Where: lab.Router}] += float64(len(paths))
		}
	}
	return nil
}

// countObjects counts objects by kind. Pods of the application are replaced, and not counted.
func (s *soaking) countObjects(ctx context.Context, c soak.Census) error {
	for _, args := range [][]string{
		{"get", clusterWide, "-A", "-o", "name"},
		{"get", ownKinds, "-n", stage.Namespace, "-o", "name"},
	} {
		out, err := s.Kubectl(ctx, "", args...)
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			if kind, _, named := strings.Cut(strings.TrimSpace(line), "/"); named {
				c[soak.Thing{What: kind, Where: "the API"}]++
			}
		}
	}
	return nil
}
