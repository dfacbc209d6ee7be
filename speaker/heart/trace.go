package heart

import (
	"time"

	"github.com/berth-lb/berth/internal/trace"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/l2/neighbor"
)

// asked remembers a question by ARP or NDP.
func (h *Heart) asked(ifname string, q neighbor.Question) {
	what := trace.Ignored
	if q.Answered {
		what = trace.Answered
	}
	h.Trace.Question(trace.Entry{
		Time: time.Now(), What: what, Interface: ifname, Address: q.Addr, From: q.From, MAC: q.MAC,
	})
}

// entryOf is an observation as the trace has it.
func entryOf(o l2.Observation) trace.Entry {
	e := trace.Entry{
		Time: o.Time, What: trace.What(o.Kind.String()), Interface: o.Interface, Address: o.Address, Node: o.Node,
	}
	copy(e.MAC[:], o.MAC)
	switch {
	case o.Err != nil:
		e.Detail = o.Err.Error()
	case o.Kind == l2.PeerUp:
		e.Detail = o.State.String()
	case o.Cause != "":
		e.Detail = o.Cause.Reason()
	}
	return e
}
