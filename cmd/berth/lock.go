package main

import (
	"context"

	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// vigilantLock notices when it reads that somebody else holds the lease. The elector
// itself goes on trying to renew for a while; a leader that was frozen must not work
// in that time.
type vigilantLock struct {
	resourcelock.Interface
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
