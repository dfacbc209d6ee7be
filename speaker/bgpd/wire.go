package bgpd

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/berth-lb/berth/bgp"
	"github.com/berth-lb/berth/speaker/rival"
)

// groupsPerOrder bounds the groups in one order, so that neither side holds much at once.
const groupsPerOrder = 500

// Identity is what a Driver is made of, for good.
type Identity struct {
	Node   string
	Listen string `json:",omitempty"` // see bgp.Config
}

// order is what is wanted. A zero field changes nothing. The parts are carried out in the order of
// the fields.
type order struct {
	Identity  *Identity              `json:",omitempty"`
	RouterID  netip.Addr             `json:",omitzero"`
	NextHops  []netip.Addr           `json:",omitempty"`
	Groups    map[string]bgp.Desired `json:",omitempty"` // without routes: removed
	LeftAlone *map[netip.Addr]string `json:",omitempty"` // see bgp.Driver.LeaveAlone
	Peers     *[]bgp.Peer            `json:",omitempty"`
	Phase     *phase                 `json:",omitempty"`
	Paths     []bgp.PathChange       `json:",omitempty"` // what the worker's Liveness says
	Question  *question              `json:",omitempty"`
	Complete  bool                   `json:",omitempty"` // everything was said on this connection
	Farewell  bool                   `json:",omitempty"` // there is nothing more to say
}

// phaseKind is the name of a method of bgp.Driver.
type phaseKind string

const (
	phaseResume     phaseKind = "Resume"
	phaseLastResort phaseKind = "LastResort"
	phaseDrain      phaseKind = "Drain"
	phaseWithdraw   phaseKind = "Withdraw"
	phaseRestart    phaseKind = "Restart"
)

type phase struct {
	Kind phaseKind
	For  time.Duration `json:",omitempty"` // Drain's
}

// questionKind says what is asked.
type questionKind string

const (
	askMetrics   questionKind = "Metrics"
	askWithdrawn questionKind = "Withdrawn" // answered when nothing is announced any more
	askEnds      questionKind = "Ends"      // whether this process was told to end as well
	askRivals    questionKind = "Rivals"    // for connections of other programs to Routers
)

type question struct {
	ID      uint64
	Kind    questionKind
	Routers []rival.Router `json:",omitempty"`
}

// news is what there is to tell. A zero field says nothing.
type news struct {
	Status   *bgp.Status       `json:",omitempty"`
	Observed []bgp.Observation `json:",omitempty"`
	Watch    *[]bgp.Peer       `json:",omitempty"` // for bgp.Liveness
	Told     []answer          `json:",omitempty"`
}

// answer to a question.
type answer struct {
	ID      uint64
	Metrics []byte             `json:",omitempty"` // in Prometheus' text format
	Ends    bool               `json:",omitempty"`
	Rivals  []rival.Connection `json:",omitempty"`
	Failure string             `json:",omitempty"`
}

// err is why there is no answer, or nil.
func (a answer) err() error {
	if a.Failure == "" {
		return nil
	}
	return errors.New(a.Failure)
}

// Announcer is a bgp.Driver, or what looks like one.
type Announcer interface {
	Sync(group string, desired bgp.Desired)
	SyncPeers(peers []bgp.Peer)
	LeaveAlone(routers map[netip.Addr]string)
	SetRouterID(id netip.Addr) error
	SetNextHops(addresses []netip.Addr) error
	Drain(after time.Duration)
	LastResort()
	Resume()
	Restart()
	Withdraw(ctx context.Context) error
	Status() bgp.Status
	Observed() <-chan bgp.Observation
}
