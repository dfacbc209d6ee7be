package steering

import (
	"bufio"
	"os"
	"strings"
)

// tracksConnections reports whether the kernel has the function by which a program asks conntrack:
// it is of the module nf_conntrack, which may be loaded later.
func tracksConnections() bool {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 2 && fields[2] == "bpf_skb_ct_lookup" {
			return true
		}
	}
	return false
}

// conntrackLoaded reports whether the module is, or is part of the kernel.
func conntrackLoaded() bool {
	_, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_max")
	return err == nil
}
