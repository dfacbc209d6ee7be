//go:build vm

package ipvs_test

import (
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func gettid() int { return unix.Gettid() }

// moveLink gives a link of this thread's namespace to the one at path.
func moveLink(name, path string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	to, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	defer to.Close()
	return netlink.LinkSetNsFd(link, int(to))
}

// reuse lets a client port be used again at once.
func reuse(_, _ string, c syscall.RawConn) error {
	var err error
	e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	if e != nil {
		return e
	}
	return err
}
