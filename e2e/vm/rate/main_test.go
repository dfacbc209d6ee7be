//go:build bench

package rate_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/berth-lb/berth/e2e/stock"
)

// insideEnv marks the process that has namespaces of its own.
const insideEnv = "BERTH_RATE_BENCH_INSIDE"

// TestMain gives the benchmark a machine of its own, as a guest is one: namespaces in which package
// cluster may use all names, and in which everything ends with this process. The lab's packages are
// laid over /usr.
func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) != "" {
		os.Exit(m.Run())
	}
	os.Exit(inNamespaces())
}

const prepare = `mount --make-rprivate /
mount -t tmpfs -o mode=755 run /run
mkdir /run/netns ` + machineProc + `
mount --bind /proc ` + machineProc + `
mount -t proc proc /proc
mount -t overlay packages /usr -o ro,lowerdir=$PACKAGES:/usr
ip link set lo up
# What the switch forwards is not the business of its namespace's rules.
sysctl -qew net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0
exec "$0" "$@"`

func inNamespaces() int {
	folder, err := stock.Find()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	executable, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	runtime.LockOSThread() // Pdeathsig follows the thread
	cmd := exec.Command("/bin/sh", append([]string{"-ec", prepare, executable}, os.Args[1:]...)...)
	cmd.Env = append(os.Environ(), insideEnv+"=1", "PACKAGES="+filepath.Join(folder.Packages(), "usr"))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "run in namespaces (needs root, and `make packages binaries`):", err)
	return 1
}
