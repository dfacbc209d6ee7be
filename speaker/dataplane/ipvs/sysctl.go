//go:build linux

package ipvs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// sysctls are those of IPVS in one network namespace.
type sysctls interface {
	// set makes a value as desired, and reads before it writes.
	set(name, value string) error
}

// nodestConnections is set to 1 while real servers are deleted: the kernel ends their connections
// at once then, a moment after (ip_vs_enqueue_expire_nodest_conns in ip_vs.h, of Linux 5.9). With 0
// it drops their packets.
const nodestConnections = "expire_nodest_conn"

// settled are the values to have, of Documentation/networking/ipvs-sysctl.rst.
var settled = []struct{ name, value string }{
	// What somebody else deletes (kube-proxy empties IPVS when it starts) keeps its connections until
	// it is put back.
	{nodestConnections, "0"},
	// A client that sticks to a real server of weight 0 gets another one for its next connection.
	{"expire_quiescent_template", "1"},
	// Rules can tell connections by the address that the client asked for, to masquerade them.
	{"conntrack", "1"},
}

func settle(s sysctls) error {
	var problems []error
	for _, v := range settled {
		problems = append(problems, s.set(v.name, v.value))
	}
	return errors.Join(problems...)
}

const sysctlFolder = "/proc/sys/net/ipv4/vs"

// kernelSysctls are those of the calling thread's network namespace.
type kernelSysctls struct{ folder string }

func (s kernelSysctls) set(name, value string) error {
	file := filepath.Join(s.folder, name)
	have, err := os.ReadFile(file)
	if err == nil && string(bytes.TrimSpace(have)) == value {
		return nil
	}
	if err == nil {
		err = os.WriteFile(file, []byte(value), 0) // the file exists
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) && name == "conntrack":
		return nil // a kernel without CONFIG_IP_VS_NFCT forwards as well, but cannot masquerade
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return fmt.Errorf(
			"set sysctl net.ipv4.vs.%s to %s: %w (set it on the node, or mount /proc/sys/net writable and name it with --ipvs-sysctls, as manifests/ipvs does)",
			name,
			value,
			err,
		)
	case err != nil:
		return fmt.Errorf("set sysctl net.ipv4.vs.%s to %s: %w", name, value, err)
	}
	return nil
}
