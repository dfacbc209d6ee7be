package main

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// leaseHold is what this process knows about its own hold of the lease. The elector alone does not
// protect against a leader that was frozen: when the process wakes, its workers continue before the
// elector has read the Lease.
type leaseHold struct {
	renewed atomic.Pointer[time.Time]
}

// certain reports whether no other process can hold the lease: it was renewed less than
// renewDeadline ago, and others wait for leaseDuration. Both clocks must agree, since either of
// them may stand still while the machine is suspended.
func (h *leaseHold) certain(now time.Time) bool {
	renewed := h.renewed.Load()
	return renewed != nil && now.Sub(*renewed) < renewDeadline && now.Round(0).Sub(renewed.Round(0)) < renewDeadline
}

// vigilantLock keeps the leaseHold up to date, and notices when another process holds the lease.
// The elector itself would keep trying to renew it for a while.
type vigilantLock struct {
	resourcelock.Interface
	held  *leaseHold
	taken func(holder string) // called when the Lease names another holder
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
	asked := time.Now() // the API server's time of the renewal is later
	err := do()
	switch {
	case err != nil:
	case record.HolderIdentity == l.Identity():
		l.held.renewed.Store(&asked)
	default:
		l.held.renewed.Store(nil) // given back
	}
	return err
}

var errUncertain = errors.New("not written: the lease was not renewed in time, so another instance may lead")

// fence lets writes through while it is certain that this process holds the lease. It is the last
// step before the network, so that a leader that freezes sends nothing more when it wakes.
type fence struct {
	held *leaseHold
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (f fence) RoundTrip(r *http.Request) (*http.Response, error) {
	if writes(r) && !f.held.certain(time.Now()) {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, errUncertain
	}
	return f.next.RoundTrip(r)
}

// writes reports whether the request changes what only the leader may change: anything but Leases
// and events. Questions about tokens and rights are posted, too, and change nothing.
func writes(r *http.Request) bool {
	return r.Method != http.MethodGet && !slices.ContainsFunc([]string{
		"coordination.k8s.io", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io",
	}, func(group string) bool { return strings.HasPrefix(r.URL.Path, "/apis/"+group+"/") })
}
