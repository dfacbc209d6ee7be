package dataplane

import (
	"errors"
	"log/slog"
	"net/netip"

	"github.com/berth-lb/berth/speaker/dataplane/guard"
	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

// leftovers are what a former process with --ipvs left in this kernel.
type leftovers struct {
	anything  bool
	addresses []netip.Addr
	rules     bool // a table of nftables
}

// findLeftovers loads no module of IPVS. A kernel that cannot say has none.
func findLeftovers(log *slog.Logger) leftovers {
	addresses, anything, err := ipvs.Leftovers()
	if err != nil {
		log.Debug("routes of a process with --ipvs cannot be looked for", "error", err)
	}
	rules, err := guard.Leftovers()
	if err != nil {
		log.Debug("nftables of a process with --ipvs cannot be looked for", "error", err)
	}
	return leftovers{anything || rules, addresses, rules}
}

// remove deletes them. A failure of one does not keep the other: rules that stay would go on
// dropping.
func (l leftovers) remove() error {
	if !l.anything {
		return nil
	}
	err := ipvs.RemoveLeftovers()
	if l.rules {
		err = errors.Join(err, guard.RemoveLeftovers())
	}
	return err
}
