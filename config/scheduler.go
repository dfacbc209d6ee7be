package config

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/scheduler"
)

// Scheduler returns the scheduler of IPVS with which Berth forwards connections to a Service with
// these addresses, or "" if kube-proxy forwards them. asked is the scheduler that the Service asks
// for, if any. The complaint, if there is one, says to the Service's owner what is wrong with the
// addresses or with asked, and the remedy.
//
// A Service has one data plane, because ipMode is the same for all nodes and addresses.
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
			"annotation %s: %s is not a valid scheduler, so %s of LoadBalancerPool %s serves; write one of %s",
			v1alpha1.AnnotationIPVSScheduler,
			Quote(asked),
			first.Scheduler,
			first.Name,
			strings.Join(scheduler.Names(), ", "),
		)
	}
	return asked, ""
}

// defaultDrainTimeout is the drain timeout of pools that do not set it.
const defaultDrainTimeout = time.Hour

// DrainTimeout returns the longest time that a terminating endpoint keeps its connections to a
// Service with these addresses. It is that of the pool of the first address, or the default if
// kube-proxy is to forward for that pool, but does not yet.
func (s *Snapshot) DrainTimeout(addresses []netip.Addr) time.Duration {
	if len(addresses) > 0 {
		if pool := s.PoolOf(addresses[0]); pool.ipvs() {
			return pool.DrainTimeout
		}
	}
	return defaultDrainTimeout
}

// ipvs reports whether Berth forwards for the pool; nil is no pool.
func (p *Pool) ipvs() bool { return p != nil && p.Scheduler != "" }

// dataplanes says which pool and data plane each address has.
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
