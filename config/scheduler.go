package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/scheduler"
)

// Scheduler returns the scheduler of IPVS by which Berth forwards connections to a Service
// with these addresses, which asks for a scheduler or, with "", does not; an empty one
// says that kube-proxy forwards. The complaint, if there is one, tells the Service's owner what
// is wrong with the addresses or with what was asked for, and the remedy.
//
// The dataplane is one for a whole Service, since ipMode is.
func (s *Snapshot) Scheduler(addresses []netip.Addr, asked string) (name, complaint string) {
	if len(addresses) == 0 {
		return "", ""
	}
	byIPVS := 0
	for _, address := range addresses {
		if s.PoolOf(address).ipvs() {
			byIPVS++
		}
	}
	first := s.PoolOf(addresses[0])
	switch {
	case byIPVS == 0 && asked != "":
		return "", fmt.Sprintf(
			"annotation %s: %s has no effect: %s; take it out, or ask for a pool with dataplane IPVS with annotation %s",
			v1alpha1.AnnotationIPVSScheduler,
			Quote(asked),
			s.dataplanes(addresses),
			v1alpha1.AnnotationPools,
		)
	case byIPVS == 0:
		return "", ""
	case byIPVS < len(addresses):
		return "", fmt.Sprintf(
			"kube-proxy forwards, since a Service has one dataplane: %s; give these pools the same spec.dataplane, or ask for others with annotation %s",
			s.dataplanes(addresses),
			v1alpha1.AnnotationPools,
		)
	case asked == "":
		return first.Scheduler, ""
	case !scheduler.Known(asked):
		return first.Scheduler, fmt.Sprintf(
			"annotation %s: %s is no scheduler, so %s of LoadBalancerPool %s serves; write one of %s",
			v1alpha1.AnnotationIPVSScheduler,
			Quote(asked),
			first.Scheduler,
			first.Name,
			strings.Join(scheduler.Names(), ", "),
		)
	}
	return asked, ""
}

// defaultDrainTimeout is that of pools that name no other.
const defaultDrainTimeout = time.Hour

// DrainTimeout returns how long an endpoint that terminates keeps its connections to a Service with these addresses at
// most: as long as the pool of the first says, or by default where kube-proxy is to forward for it, but does not yet.
func (s *Snapshot) DrainTimeout(addresses []netip.Addr) time.Duration {
	if len(addresses) > 0 {
		if pool := s.PoolOf(addresses[0]); pool.ipvs() {
			return pool.DrainTimeout
		}
	}
	return defaultDrainTimeout
}

// ipvs tells whether Berth forwards for the pool; nil is no pool.
func (p *Pool) ipvs() bool { return p != nil && p.Scheduler != "" }

// dataplanes says which pool and dataplane each address is of.
func (s *Snapshot) dataplanes(addresses []netip.Addr) string {
	var words []string
	for _, address := range addresses {
		switch pool := s.PoolOf(address); {
		case pool == nil:
			words = append(words, fmt.Sprintf("%s is in no LoadBalancerPool", address))
		case pool.ipvs():
			words = append(words, fmt.Sprintf("%s is of LoadBalancerPool %s (dataplane IPVS)", address, pool.Name))
		default:
			words = append(
				words,
				fmt.Sprintf("%s is of LoadBalancerPool %s (dataplane KubeProxy)", address, pool.Name),
			)
		}
	}
	return strings.Join(words, ", ")
}
