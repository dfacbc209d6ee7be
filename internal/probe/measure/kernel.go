package measure

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/berth-lb/berth/internal/probe"
	"github.com/berth-lb/berth/speaker/returnpath"
)

// kernel notes what the kernel has. To ask nftables itself would take CAP_NET_ADMIN, so the names
// of the kernel's functions are read.
func (n *notes) kernel() {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		n.fail("kernel: %v", err)
		return
	}
	found, err := functions("nft_do_chain", "nf_conntrack_in")
	if err != nil {
		n.fail("kernel: %v", err)
		return
	}
	otherwise := probe.NotLoaded
	if _, err := os.Stat("/proc/modules"); errors.Is(err, fs.ErrNotExist) {
		otherwise = probe.Absent // it has no modules
	}
	presence := func(is bool) probe.Presence {
		if is {
			return probe.Present
		}
		return otherwise
	}
	ipvs := probe.Unknown
	if n.asked.IPVS {
		_, err = netlink.GenlFamilyGet("IPVS") // which loads a module if there is one
		ipvs = presence(err == nil)
	}
	n.note(func(r *probe.Report) {
		r.Kernel = probe.Kernel{
			Release: unix.ByteSliceToString(name.Release[:]), NFTables: presence(found["nft_do_chain"]),
			Conntrack: presence(found["nf_conntrack_in"]), IPVS: ipvs,
		}
	})
}

// functions returns which of these functions the kernel and its loaded modules have.
func functions(names ...string) (map[string]bool, error) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil, err
	}
	found := map[string]bool{}
	lines := bufio.NewScanner(f)
	for lines.Scan() { // address, type, name, and the module in brackets
		fields := strings.Fields(lines.Text())
		for _, name := range names {
			if len(fields) >= 3 && fields[2] == name {
				found[name] = true
			}
		}
	}
	return found, errors.Join(lines.Err(), f.Close())
}

// routing notes how replies to what arrives at an interface leave, and what the kernel thinks of
// that.
func (n *notes) routing(l *probe.Link) {
	var err error
	if l.Replies4, l.Replies6, err = returnpath.Families(l.Name); err != nil {
		n.fail("%v", err)
	}
	for _, name := range []string{"all", l.Name} {
		text, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv4/conf", name, "rp_filter"))
		if errors.Is(err, fs.ErrNotExist) { // without IPv4
			continue
		}
		value, bad := strconv.Atoi(strings.TrimSpace(string(text)))
		if err := errors.Join(err, bad); err != nil {
			n.fail("rp_filter of %s: %v", name, err)
			continue
		}
		l.ReversePath = max(l.ReversePath, value)
	}
}
