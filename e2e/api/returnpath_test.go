//go:build root

package api

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/berth-lb/berth/speaker/returnpath"
)

// TestReturnPath asks the kernel of a node: one with a
// default route by eth0, and a second network card without.
func TestReturnPath(t *testing.T) {
	got := map[string][]string{}
	must(t, scene.In("n1", func() (err error) {
		second := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "second"}, PeerName: "bare"}
		if err := netlink.LinkAdd(second); err != nil {
			return fmt.Errorf("add a network card: %w", err)
		}
		defer func() { err = errors.Join(err, netlink.LinkDel(second)) }()
		if err := netlink.LinkSetUp(second); err != nil {
			return fmt.Errorf("set it up: %w", err)
		}
		address, err := netlink.ParseAddr("10.99.0.1/24")
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(second, address); err != nil {
			return fmt.Errorf("add %s: %w", address, err)
		}
		for _, name := range []string{"eth0", "second", "bare"} {
			if got[name], err = returnpath.Of(name); err != nil {
				return err
			}
		}
		if _, err := returnpath.Of("none"); err == nil {
			return errors.New("an interface that is not there has a return path")
		}
		return nil
	}))
	want := map[string][]string{"eth0": {"eth0"}, "second": {"eth0"}, "bare": nil}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
