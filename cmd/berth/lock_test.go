package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// lease is a lock whose writes end with err.
type lease struct {
	resourcelock.Interface
	holder string
	err    error
}

func (l *lease) Identity() string { return "a" }

func (l *lease) Get(context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	return &resourcelock.LeaderElectionRecord{HolderIdentity: l.holder}, nil, l.err
}

func (l *lease) Update(_ context.Context, r resourcelock.LeaderElectionRecord) error {
	if l.err == nil {
		l.holder = r.HolderIdentity
	}
	return l.err
}

func TestLeaseHoldIsCertainForRenewDeadline(t *testing.T) {
	under := &lease{}
	lock := vigilantLock{under, &leaseHold{}, func(string) {}}
	now := time.Now()
	expect := func(when string, at time.Time, want bool) {
		t.Helper()
		if got := lock.held.certain(at); got != want {
			t.Errorf("%s: certain is %t, want %t", when, got, want)
		}
	}
	expect("before the first renewal", now, false)
	ours := resourcelock.LeaderElectionRecord{HolderIdentity: "a"}
	if err := lock.Update(t.Context(), ours); err != nil {
		t.Fatal(err)
	}
	renewed := *lock.held.renewed.Load()
	if renewed.Before(now) || renewed.After(time.Now()) {
		t.Errorf("renewed at %s, want now", renewed)
	}
	expect("at once", renewed, true)
	expect("late", renewed.Add(renewDeadline-1), true)
	expect("too late", renewed.Add(renewDeadline), false)
	// The wall clock went on while the monotonic one stood still.
	expect("after a suspension", renewed.Round(0).Add(time.Hour), false)

	under.err = errors.New("away")
	if err := lock.Update(t.Context(), ours); !errors.Is(err, under.err) {
		t.Errorf("error %v", err)
	}
	if again := *lock.held.renewed.Load(); again != renewed {
		t.Errorf("a renewal that failed counts: %s", again)
	}
	under.err = nil
	if err := lock.Update(t.Context(), resourcelock.LeaderElectionRecord{}); err != nil {
		t.Fatal(err)
	}
	expect("given back", renewed, false)
}

func TestVigilantLockNoticesAnotherHolder(t *testing.T) {
	for _, c := range []struct{ holder, want string }{{"a", ""}, {"", ""}, {"b", "b"}} {
		noticed := ""
		lock := vigilantLock{&lease{holder: c.holder}, &leaseHold{}, func(holder string) { noticed = holder }}
		if _, _, err := lock.Get(t.Context()); err != nil || noticed != c.want {
			t.Errorf("holder %q: noticed %q, error %v; want %q", c.holder, noticed, err, c.want)
		}
	}
}

func TestFenceStopsWritesExceptLeasesAndEvents(t *testing.T) {
	arrived := 0
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived++ }))
	defer server.Close()
	held := &leaseHold{}
	client := &http.Client{Transport: fence{held, http.DefaultTransport}}
	const services, leases = "/api/v1/namespaces/a/services/b/status", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b"
	for _, c := range []struct {
		method, path     string
		closed, passable bool
	}{
		{http.MethodGet, services, true, true},
		{http.MethodPut, services, true, false},
		{http.MethodPut, services, false, true},
		{http.MethodPatch, services, true, false},
		{http.MethodPost, "/api/v1/namespaces/a/secrets", true, false},
		{http.MethodPut, "/apis/berth.dev/v1alpha1/loadbalancerpools/p/status", true, false},
		{http.MethodPut, leases, true, true},
		{http.MethodPost, "/apis/events.k8s.io/v1/namespaces/a/events", true, true},
		{http.MethodPost, "/apis/authentication.k8s.io/v1/tokenreviews", true, true},
		{http.MethodPost, "/apis/authorization.k8s.io/v1/subjectaccessreviews", true, true},
		{http.MethodPost, "/apis/rbac.authorization.k8s.io/v1/clusterroles", true, false},
	} {
		arrived = 0
		held.renewed.Store(nil)
		if !c.closed {
			now := time.Now()
			held.renewed.Store(&now)
		}
		request, err := http.NewRequestWithContext(t.Context(), c.method, server.URL+c.path, strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err == nil {
			response.Body.Close()
		}
		if c.passable != (arrived == 1) || c.passable != (err == nil) || !c.passable && !errors.Is(err, errUncertain) {
			t.Errorf("%s %s, closed %t: %d arrived, error %v", c.method, c.path, c.closed, arrived, err)
		}
	}
}
