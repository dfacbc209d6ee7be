package controller

import (
	"net/netip"
	"testing"

	"github.com/berth-lb/berth/controller/service"
)

func TestNewProvider(t *testing.T) {
	for _, classless := range []bool{true, false} {
		c := &Controller{Options: Options{Classless: classless}}
		if p, err := NewProvider(c); (err == nil) != classless || (p != nil) != classless {
			t.Errorf("Classless %t: %v, %v", classless, p, err)
		}
		if c.Classless != classless {
			t.Errorf("Classless %t became %t", classless, c.Classless)
		}
	}
}

// A Service that is told nothing new is reviewed by the pools as they are now: those from before
// are not compared again and again, and need no memory.
func TestProvider_settle_snapshot(t *testing.T) {
	c := newPools(t, "web")
	p, err := NewProvider(c.Controller)
	if err != nil {
		t.Fatal(err)
	}
	p.lead(true)
	pool := poolOf("192.0.2.1")
	c.stores(c.informers.pool.GetStore().Add(pool))
	c.compile()
	svc, err := c.informers.services.Services("a").Get("web")
	if err != nil {
		t.Fatal(err)
	}
	status, err := p.EnsureLoadBalancer(t.Context(), "", svc, nil)
	if err != nil {
		t.Fatal(err)
	}
	svc = svc.DeepCopy()
	svc.Status.LoadBalancer = *status
	if got := service.AddressesIn(svc); len(got) != 1 || got[0] != netip.MustParseAddr("192.0.2.1") {
		t.Fatalf("it has %v", got)
	}
	p.wrote("a/web", svc)
	settles := func() bool {
		_, _, again := p.settle("a/web", svc, c.requestOf(svc, service.Own))
		return !again
	}
	c.compile()
	if !settles() || p.outcomes["a/web"].snapshot != c.snapshot.Load() {
		t.Error("its outcome is still of the former pools, though they are the same")
	}
	c.stores(c.informers.pool.GetStore().Update(poolOf("198.51.100.1")))
	c.compile()
	if settles() || p.outcomes["a/web"].snapshot == c.snapshot.Load() {
		t.Error("it is not to be asked for again, though the pools changed")
	}
}
