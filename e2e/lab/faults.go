//go:build linux

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/e2e/host"
)

// Cut pulls the host's cable at the rack's switch: no frame passes, and the host sees its link
// down.
func (l *Lab) Cut(hostName string) error { return l.setPort(hostName, false) }

// Heal plugs the cable in again.
func (l *Lab) Heal(hostName string) error { return l.setPort(hostName, true) }

func (l *Lab) setPort(hostName string, up bool) error {
	if err := l.onSegment(hostName); err != nil {
		return err
	}
	h, err := l.netlink(rack)
	if err != nil {
		return err
	}
	defer h.Close()
	port, err := h.LinkByName(hostName)
	if err != nil {
		return fmt.Errorf("find the cable of %s: %w", hostName, err)
	}
	if up {
		err = h.LinkSetUp(port)
	} else {
		err = h.LinkSetDown(port)
	}
	if err != nil {
		return fmt.Errorf("switch the cable of %s: %w", hostName, err)
	}
	return nil
}

// onSegment returns an error for a host that has no port on the rack segment.
func (l *Lab) onSegment(hostName string) error {
	h, err := l.plan.host(hostName)
	if err != nil {
		return err
	}
	for _, p := range h.ports {
		if p.onRack {
			return nil
		}
	}
	return fmt.Errorf("%s is not on the rack segment", hostName)
}

// Block drops every frame between two hosts of the segment, both ways, broadcast and multicast
// included. Both keep their link and reach all others.
func (l *Lab) Block(ctx context.Context, a, b string) error {
	return l.blocked(ctx, "add", [2]string{a, b}, [2]string{b, a})
}

// BlockOneWay drops every frame from one host of the segment to another, but not in the other
// direction.
func (l *Lab) BlockOneWay(ctx context.Context, from, to string) error {
	return l.blocked(ctx, "add", [2]string{from, to})
}

// Unblock lets all frames between two hosts pass again, in both directions.
func (l *Lab) Unblock(ctx context.Context, a, b string) error {
	ways := [][2]string{{a, b}, {b, a}}
	// nftables deletes only existing elements. Adding an existing one changes nothing.
	return errors.Join(l.blocked(ctx, "add", ways...), l.blocked(ctx, "delete", ways...))
}

// blocked changes the set of blocked directions in the rack's switch.
func (l *Lab) blocked(ctx context.Context, verb string, ways ...[2]string) error {
	const table = "add table bridge lab\n" +
		"add set bridge lab blocked { type ifname . ifname; }\n" +
		"add chain bridge lab forward { type filter hook forward priority 0; }\n" +
		"flush chain bridge lab forward\n" +
		"add rule bridge lab forward iifname . oifname @blocked drop\n"
	var elements []string
	for _, w := range ways {
		if err := errors.Join(l.onSegment(w[0]), l.onSegment(w[1])); err != nil {
			return err
		}
		if w[0] == w[1] {
			return fmt.Errorf("block %s from itself: want two hosts", w[0])
		}
		elements = append(elements, fmt.Sprintf("%q . %q", w[0], w[1]))
	}
	cmd := l.Exec(ctx, rack, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(
		fmt.Sprintf("%s%s element bridge lab blocked { %s }\n", table, verb, strings.Join(elements, ", ")),
	)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s blocked frames from %s to %s: %w\n%s", verb, ways[0][0], ways[0][1], err, bytes.TrimSpace(out))
	}
	return nil
}

// Kill ends processes with SIGKILL, and returns once they are gone. The name is one that Status
// shows, or that of a node. The whole node then ends at once, and its link goes down, as in a power
// cut; Start brings it back.
func (l *Lab) Kill(ctx context.Context, name string) error {
	if h, err := l.plan.host(name); err == nil && h.node != 0 {
		init, err := l.initOf(name)
		if err != nil {
			return err
		}
		if err := l.Cut(name); err != nil {
			return err
		}
		return killAll(ctx, []int{init})
	}
	p, err := l.Process(ctx, name)
	if err != nil {
		return err
	}
	if err := killAll(ctx, []int{p.PID}); err != nil {
		return fmt.Errorf("kill %s (process %d): %w", name, p.PID, err)
	}
	return nil
}

// Pause stops a process with SIGSTOP, and returns once each of its threads is stopped: it keeps its
// sockets and does nothing.
func (l *Lab) Pause(ctx context.Context, name string) error {
	p, err := l.signal(ctx, name, unix.SIGSTOP)
	if err != nil {
		return err
	}
	return until(ctx, 10*time.Second, func(context.Context) error {
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.PID))
		if err != nil {
			return fmt.Errorf("pause %s: %w", name, err)
		}
		for _, t := range threads {
			if state := stateIn(fmt.Sprintf("/proc/%d/task/%s/stat", p.PID, t.Name())); state == "running" {
				return fmt.Errorf("thread %s of %s still runs", t.Name(), name)
			}
		}
		return nil
	})
}

// Resume continues a paused process.
func (l *Lab) Resume(ctx context.Context, name string) error {
	_, err := l.signal(ctx, name, unix.SIGCONT)
	return err
}

func (l *Lab) signal(ctx context.Context, name string, s unix.Signal) (Process, error) {
	p, err := l.Process(ctx, name)
	if err != nil {
		return p, err
	}
	if err := unix.Kill(p.PID, s); err != nil {
		return p, fmt.Errorf("send %s to %s (process %d): %w", unix.SignalName(s), name, p.PID, err)
	}
	return p, nil
}

// Process is something that runs in the lab.
type Process struct {
	// Name is how faults address it: "etcd", "bgpd@router", "speaker@n1".
	Name string
	Host string
	// Pod is namespace/name for the process of a container, and empty otherwise.
	Pod string
	// PID is the machine's number for it, or 0 if it has ended.
	PID int
	// State is "running", "paused", or how it ended.
	State string
}

// NotRunningError says that no process of a name runs.
type NotRunningError struct{ Name string }

func (e *NotRunningError) Error() string {
	return fmt.Sprintf("no process %s runs: see `lab status`", e.Name)
}

// Process finds a running process by name. NAME@NODE may also be the pod's name instead of the
// container's, to distinguish containers of the same name.
func (l *Lab) Process(ctx context.Context, name string) (Process, error) {
	_, hostName := splitProcess(name)
	all, err := l.processesOf(ctx, hostName)
	if err != nil {
		return Process{}, err
	}
	p, err := chosen(all, name)
	if err != nil {
		return Process{}, fmt.Errorf("lab %q: %w", l.opts.Name, err)
	}
	return p, nil
}

// chosen returns the running one of a host's processes that a name is of.
func chosen(all []Process, name string) (Process, error) {
	process, hostName := splitProcess(name)
	var found []Process
	var pods []string
	for _, p := range all {
		_, pod, _ := strings.Cut(p.Pod, "/")
		if p.PID != 0 && (p.Name == name || p.Pod != "" && pod == process) {
			found = append(found, p)
			pods = append(pods, pod+"@"+hostName)
		}
	}
	switch len(found) {
	case 0:
		return Process{}, &NotRunningError{name}
	case 1:
		return found[0], nil
	default:
		return Process{}, fmt.Errorf("%d processes are named %s: choose by pod, %s", len(found), name, strings.Join(pods, " or "))
	}
}

// splitProcess splits PROCESS@HOST. Without a host, the process is the control plane's.
func splitProcess(name string) (process, hostName string) {
	process, hostName, ok := strings.Cut(name, "@")
	if !ok {
		return name, ControlPlane
	}
	return process, hostName
}

// processesOf lists what runs in a host, containers included.
func (l *Lab) processesOf(ctx context.Context, hostName string) ([]Process, error) {
	init, err := l.initOf(hostName)
	if err != nil {
		return nil, err
	}
	started, err := host.Client{PID: init}.Processes(ctx)
	if err != nil {
		return nil, fmt.Errorf("list processes of %s: %w", hostName, err)
	}
	var all []Process
	for _, s := range started {
		p := Process{Name: s.Name + "@" + hostName, Host: hostName, State: s.End}
		if hostName == ControlPlane {
			p.Name = s.Name
		}
		if !s.Ended {
			if p.PID, err = machinePID(init, s.PID); err != nil {
				continue // it ended just now
			}
			p.observe()
		}
		all = append(all, p)
	}
	containers, err := containersOf(hostName, init)
	return append(all, containers...), err
}

// containersOf reads containerd's run-time folder. The sandboxes' own processes are left out.
func containersOf(hostName string, init int) ([]Process, error) {
	const tasks = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
	dirs, err := filepath.Glob(fmt.Sprintf("/proc/%d/root%s/*", init, tasks))
	if err != nil {
		return nil, fmt.Errorf("list containers of %s: %w", hostName, err)
	}
	var all []Process
	for _, dir := range dirs {
		p, err := container(dir, init)
		if errors.Is(err, os.ErrNotExist) {
			continue // it comes or goes
		} else if err != nil {
			return nil, fmt.Errorf("list containers of %s: %w", hostName, err)
		}
		if p.Name != "" {
			p.Name, p.Host = p.Name+"@"+hostName, hostName
			all = append(all, p)
		}
	}
	return all, nil
}

// container reads one container's folder. The name is empty for a sandbox.
func container(dir string, init int) (Process, error) {
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return Process{}, err
	}
	var config struct{ Annotations map[string]string }
	if err := json.Unmarshal(text, &config); err != nil {
		return Process{}, err
	}
	const cri = "io.kubernetes.cri."
	note := config.Annotations
	if note[cri+"container-type"] != "container" {
		return Process{}, nil
	}
	p := Process{
		Name:  note[cri+"container-name"],
		Pod:   note[cri+"sandbox-namespace"] + "/" + note[cri+"sandbox-name"],
		State: "ended",
	}
	text, err = os.ReadFile(filepath.Join(dir, "init.pid"))
	if err != nil {
		return Process{}, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return Process{}, err
	}
	if p.PID, err = machinePID(init, pid); err == nil {
		p.observe()
	}
	return p, nil
}

// observe sets the state of a process by its number, and clears the number of one that has ended
// but has not been reaped yet.
func (p *Process) observe() {
	if p.State = runState(p.PID); p.State == "ended" {
		p.PID = 0
	}
}

// runState distinguishes a paused process from a running one (proc_pid_stat(5), field 3).
func runState(pid int) string { return stateIn(fmt.Sprintf("/proc/%d/stat", pid)) }

// stateIn reads the state of a process or a thread.
func stateIn(stat string) string {
	text, err := os.ReadFile(stat)
	if err != nil {
		return "ended"
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	switch {
	case len(fields) == 0:
		return "ended"
	case fields[0] == "T":
		return "paused"
	case fields[0] == "Z":
		return "ended"
	default:
		return "running"
	}
}

// clearNodeNetwork removes what a dead node's kernel still holds: the pods' bridge and interfaces,
// and the packet filter's rules.
func (l *Lab) clearNodeNetwork(name string) error {
	h, err := l.netlink(name)
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces of %s: %w", name, err)
	}
	for _, link := range links {
		if n := link.Attrs().Name; n == "lo" || n == rackPort {
			continue
		}
		var gone netlink.LinkNotFoundError
		if err := h.LinkDel(link); err != nil && !errors.As(err, &gone) && !errors.Is(err, unix.ENODEV) &&
			!errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("remove %s of %s: %w", link.Attrs().Name, name, err)
		}
	}
	return nil
}
