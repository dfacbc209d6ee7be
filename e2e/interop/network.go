//go:build linux

package interop

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// The node's end of the cable to the router, and the router's.
const (
	nodeLink   = "tor0"
	routerLink = "node0"
)

// network is the network of a cell: the process's own namespace is the node's.
type network struct {
	router, middle string // paths of namespaces
}

// prepare makes the process, which has namespaces of its own, the node of a cell.
func prepare() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := syscall.Mount("run", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	// The users and groups that daemons look up.
	for path, text := range map[string]string{
		"/etc/passwd": "root:x:0:0::/root:/bin/sh\n_openbgpd:x:9770:9770::/run/openbgpd:/usr/sbin/nologin\n",
		"/etc/group":  "root:x:0:\nfrr:x:9771:root\nfrrvty:x:9772:root\n_openbgpd:x:9770:\n",
	} {
		file := filepath.Join("/run", filepath.Base(path))
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
		if err := syscall.Mount(file, path, "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
	}
	return os.Mkdir("/run/openbgpd", 0o755)
}

// connect makes the namespaces and the cables.
func connect(ctx context.Context, s Settings) (*network, error) {
	n := &network{}
	var err error
	if n.router, err = namespace(); err != nil {
		return nil, err
	}
	lines := []string{
		"sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.autoconf=0",
		"ip link set lo up",
		"ip link add " + nodeLink + " type veth peer name " + routerLink,
		"ip link set " + nodeLink + " addrgenmode none",
		"ip addr add 10.0.0.9/24 dev " + nodeLink,
		"ip addr add 10.0.0.10/24 dev " + nodeLink,
		"ip addr add 2001:db8::9/64 dev " + nodeLink + " nodad",
		"ip addr add fe80::9/64 dev " + nodeLink + " nodad",
	}
	first, address := n.router, "1"
	if s.Hops {
		if n.middle, err = namespace(); err != nil {
			return nil, err
		}
		first, address = n.middle, "2"
	}
	peer := "nsenter --net=" + first + " "
	lines = append(lines,
		"ip link set "+routerLink+" netns "+pid(first),
		peer+"sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.forwarding=1 net.ipv4.ip_forward=1",
		peer+"ip link set lo up",
		peer+"ip link set "+routerLink+" addrgenmode none",
		peer+"ip addr add 10.0.0."+address+"/24 dev "+routerLink,
		peer+"ip addr add 2001:db8::"+address+"/64 dev "+routerLink+" nodad",
		peer+"ip addr add fe80::"+address+"/64 dev "+routerLink+" nodad",
		"ip link set "+nodeLink+" up",
		peer+"ip link set "+routerLink+" up",
	)
	if s.Hops {
		far := "nsenter --net=" + n.router + " "
		lines = append(lines,
			peer+"ip link add far0 type veth peer name "+routerLink+" netns "+pid(n.router),
			peer+"ip addr add 10.1.0.2/24 dev far0",
			peer+"ip addr add 2001:db8:1::2/64 dev far0 nodad",
			peer+"ip link set far0 up",
			far+"ip link set lo up",
			far+"ip addr add 10.1.0.1/24 dev "+routerLink,
			far+"ip addr add 2001:db8:1::1/64 dev "+routerLink+" nodad",
			far+"ip link set "+routerLink+" up",
			far+"ip route add 10.0.0.0/24 via 10.1.0.2",
			far+"ip route add 2001:db8::/64 via 2001:db8:1::2",
			"ip route add 10.1.0.0/24 via 10.0.0.2",
			"ip route add 2001:db8:1::/64 via 2001:db8::2",
		)
	}
	for _, line := range lines {
		words := strings.Fields(line)
		if out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return n, nil
}

// namespace makes a network namespace that lasts as long as the cell.
func namespace() (string, error) {
	holder := exec.Command("sleep", "infinity")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := holder.Start(); err != nil {
		return "", fmt.Errorf("make a network namespace: %w", err)
	}
	return fmt.Sprintf("/proc/%d/ns/net", holder.Process.Pid), nil
}

func pid(namespace string) string { return strings.Split(namespace, "/")[2] }
