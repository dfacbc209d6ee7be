package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// tenure is what this process knows of its holding the lease. The elector alone does
// not save from a leader that was frozen: when that wakes, its workers go on before
// the elector has looked at the Lease.
type tenure struct {
	renewed atomic.Pointer[time.Time]
}

// certain tells whether nobody else can hold the lease: it was renewed less than
// renewDeadline ago, and others wait for leaseDuration. Both clocks must say so, since
// one of them may stand still while a machine is suspended.
func (t *tenure) certain(now time.Time) bool {
	renewed := t.renewed.Load()
	return renewed != nil && now.Sub(*renewed) < renewDeadline && now.Round(0).Sub(renewed.Round(0)) < renewDeadline
}

// vigilantLock keeps the tenure, and notices when it reads that somebody else holds
// the lease. The elector itself goes on trying to renew for a while then.
type vigilantLock struct {
	resourcelock.Interface
	tenure *tenure
	// taken is called when another holder is read.
	taken func(holder string)
}

func (l vigilantLock) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := l.Interface.Get(ctx)
	if err == nil && record.HolderIdentity != "" && record.HolderIdentity != l.Identity() {
		l.taken(record.HolderIdentity)
	}
	return record, raw, err
}

func (l vigilantLock) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.write(record, func() error { return l.Interface.Create(ctx, record) })
}

func (l vigilantLock) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return l.write(record, func() error { return l.Interface.Update(ctx, record) })
}

func (l vigilantLock) write(record resourcelock.LeaderElectionRecord, do func() error) error {
	asked := time.Now() // the API server's time of it is later
	err := do()
	switch {
	case err != nil:
	case record.HolderIdentity == l.Identity():
		l.tenure.renewed.Store(&asked)
	default:
		l.tenure.renewed.Store(nil) // given back
	}
	return err
}

var errUncertain = errors.New("not written: the lease was not renewed in time, so that another may lead")

// fence lets writes through while the tenure is certain. It stands last before the
// wire, so that of a leader that freezes only what is on the wire already arrives.
type fence struct {
	tenure *tenure
	next   http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (f fence) RoundTrip(r *http.Request) (*http.Response, error) {
	if writes(r) && !f.tenure.certain(time.Now()) {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, errUncertain
	}
	return f.next.RoundTrip(r)
}

// writes tells whether the request changes what only the leader may change: not the
// Lease, and not events.
func writes(r *http.Request) bool {
	return r.Method != http.MethodGet &&
		!strings.HasPrefix(r.URL.Path, "/apis/coordination.k8s.io/") && !strings.HasPrefix(r.URL.Path, "/apis/events.k8s.io/")
}
