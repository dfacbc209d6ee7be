package lint

import (
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/allocation"
	"github.com/berth-lb/berth/controller/service"
)

// reservation is an AddressReservation, and where it is.
type reservation struct {
	*v1alpha1.AddressReservation
	at Object
}

// nobody is told of changes.
type nobody struct{}

func (nobody) Service(string)          {}
func (nobody) Reservation(string)      {}
func (nobody) UsageChanged()           {}
func (nobody) WakeAfter(time.Duration) {}

// reserve makes the reservations, in the order of the files, as the controller would in a cluster
// where no address is given yet. The labels of namespaces are not known: selectors of scopes count
// as those of namespaces without labels.
func (l *linter) reserve(snapshot *config.Snapshot) {
	allocations := allocation.New(allocation.Config{
		Queue: nobody{}, Logger: slog.New(slog.DiscardHandler), ReservationsPerNamespace: 1 << 20,
	})
	allocations.SetPools(allocation.Pools(snapshot))
	for _, r := range l.reservations {
		_, err := allocations.Reserve(
			r.Namespace+"/"+r.Name,
			r.AddressReservation,
			allocation.Rules{Snapshot: snapshot, Namespace: labels.Set{}},
		)
		if err == nil {
			continue
		}
		reason, message := allocation.Explain(r.AddressReservation, err)
		severity := Error
		switch reason {
		case service.ReasonAddressOutside,
			service.ReasonUnknownPool,
			service.ReasonPoolOutOfScope,
			service.ReasonNoPool:
			if !l.complete {
				severity = Warning
				message += " (as far as these files say)"
			}
		}
		l.say(r.at, severity, "%s", message)
	}
}
