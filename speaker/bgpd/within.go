package bgpd

import (
	"context"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/speaker/rival"
)

// Within is BGP in this process, with the methods that a Remote has besides.
type Within struct{ *bgp.Driver }

// Meet is that of Remote: there was nothing before.
func (Within) Meet(context.Context) {}

// Ends is that of Remote: both are one process.
func (Within) Ends(context.Context) bool { return true }

// Look is that of Remote.
func (Within) Look(routers []rival.Router) ([]rival.Connection, error) { return rival.Look(routers) }
