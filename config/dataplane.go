package config

import (
	"cmp"
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

func (p *Pool) dataplane() v1alpha1.Dataplane {
	switch {
	case p.ipvs():
		return v1alpha1.DataplaneIPVS
	case p.Steering != nil:
		return v1alpha1.DataplaneSteering
	}
	return v1alpha1.DataplaneKubeProxy
}

// dataplanes says which pool and data plane each address has.
func (s *Snapshot) dataplanes(addresses []netip.Addr) string {
	var words []string
	for _, address := range addresses {
		switch pool := s.PoolOf(address); {
		case pool == nil:
			words = append(words, fmt.Sprintf("%s is in no LoadBalancerPool", address))
		default:
			words = append(
				words,
				fmt.Sprintf("%s is of LoadBalancerPool %s (dataplane %s)", address, pool.Name, pool.dataplane()),
			)
		}
	}
	return strings.Join(words, ", ")
}

// Steering is how connections to the addresses of a pool are steered.
type Steering struct {
	SecondChance  v1alpha1.SecondChance
	Encapsulation v1alpha1.Encapsulation
	// Cluster: Services of externalTrafficPolicy Cluster are steered, too.
	Cluster bool
}

// steeringOf returns the settings of a pool with their defaults.
func steeringOf(settings *v1alpha1.SteeringSettings) *Steering {
	if settings == nil {
		settings = &v1alpha1.SteeringSettings{}
	}
	return &Steering{
		SecondChance:  cmp.Or(settings.SecondChance, v1alpha1.SecondChanceTCPAndUDP),
		Encapsulation: cmp.Or(settings.Encapsulation, v1alpha1.EncapsulationAuto),
		Cluster:       settings.ClusterPolicy == v1alpha1.ClusterSteered,
	}
}

// Steered returns how connections to a Service with these addresses are steered, or nil if they are
// not. local is whether its externalTrafficPolicy is Local. The complaint, if there is one, says to
// the Service's owner why not, and the remedy.
//
// A Service has one data plane, because any node may announce any of its addresses or none.
func (s *Snapshot) Steered(addresses []netip.Addr, local bool) (how *Steering, complaint string) {
	steered, refuses := 0, ""
	for _, address := range addresses {
		if pool := s.PoolOf(address); pool != nil && pool.Steering != nil {
			how = pool.Steering
			steered++
			if !how.Cluster {
				refuses = pool.Name
			}
		}
	}
	switch {
	case steered == 0:
		return nil, ""
	case steered < len(addresses):
		return nil, fmt.Sprintf(
			"connections are not steered, since a Service has one dataplane: %s; give these pools the same spec.dataplane, or ask for others with annotation %s",
			s.dataplanes(addresses),
			v1alpha1.AnnotationPools,
		)
	case !local && refuses != "":
		return nil, fmt.Sprintf(
			"connections are not steered, since spec.externalTrafficPolicy is Cluster; write Local: with steering, all nodes answer, also those without an endpoint; or have Services of policy Cluster steered by spec.steering.externalTrafficPolicyCluster: %s of LoadBalancerPool %s",
			v1alpha1.ClusterSteered,
			refuses,
		)
	}
	return how, ""
}
