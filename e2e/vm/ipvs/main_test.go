//go:build vm

package ipvs_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// found is what was seen before the modules were loaded, which happens once.
var found struct {
	noIPVS, loaded, noScheduler, served error
	err                                 error // the kernel was not as the tests suppose
}

func TestMain(m *testing.M) {
	if code := child(); code >= 0 {
		os.Exit(code)
	}
	found.err = lookWithoutModules()
	os.Exit(m.Run())
}

const modprobePath = "/proc/sys/kernel/modprobe"

func lookWithoutModules() error {
	// A module in this kernel, and to be there before namespaces are made.
	if out, err := exec.Command("modprobe", "ipv6").CombinedOutput(); err != nil {
		return fmt.Errorf("modprobe ipv6: %w: %s", err, out)
	}
	if _, err := os.Stat("/proc/net/ip_vs"); err == nil {
		return errors.New("IPVS is there before anybody asked for it")
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	modprobe, err := os.ReadFile(modprobePath)
	if err != nil {
		return err
	}
	without := func(f func()) error {
		if err := os.WriteFile(modprobePath, []byte("/nonexistent"), 0); err != nil {
			return err
		}
		f()
		return os.WriteFile(modprobePath, modprobe, 0)
	}
	err = without(func() { found.noIPVS = ipvs.Probe("rr") })
	if err != nil {
		return err
	}
	found.loaded = ipvs.Probe("rr")
	return without(func() {
		found.noScheduler = ipvs.Probe("nq")
		found.served = try(frontend(ipvs.TCP, service4, 80), simple("nq", real(1, false)))
	})
}

// try has a driver program one virtual server in this namespace, and returns what it first says of
// it.
func try(f ipvs.Frontend, v ipvs.VirtualServer) error {
	d := ipvs.New(ipvs.Config{})
	d.Sync("test", ipvs.Table{f: v})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); _ = d.Run(ctx) }()
	defer func() { cancel(); <-done; _ = d.Remove() }()
	for {
		select {
		case o := <-d.Observed():
			if o.Frontend == f {
				return o.Err
			}
		case <-time.After(patience):
			return errors.New("nothing was observed")
		}
	}
}

func TestWhatTheKernelLacksIsToldApart(t *testing.T) {
	if found.err != nil {
		t.Fatal(found.err)
	}
	if !errors.Is(found.noIPVS, ipvs.ErrNoIPVS) {
		t.Errorf("without the module ip_vs: %v", found.noIPVS)
	}
	if found.loaded != nil {
		t.Errorf("when the kernel can load modules: %v", found.loaded)
	}
	if !errors.Is(found.noScheduler, ipvs.ErrNoScheduler) {
		t.Errorf("without the module ip_vs_nq: %v", found.noScheduler)
	}
	if !errors.Is(found.served, ipvs.ErrNoScheduler) {
		t.Errorf("a virtual server with scheduler nq, without its module: %v", found.served)
	}
}
