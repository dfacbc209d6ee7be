package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// schedulers of IPVS that a Service may ask for.
var schedulers = []string{"rr", "wrr", "lc", "wlc", "dh", "sh", "sed", "nq", "mh"}

// Scheduler returns the scheduler of IPVS by which Berth forwards connections to a Service
// with these addresses, which asks for a scheduler or, with "", does not; an empty one
// says that kube-proxy forwards. The complaint, if there is one, tells the Service's owner what
// is wrong with the addresses or with what was asked for, and the remedy.
//
// The dataplane is one for a whole Service, since ipMode is.
func (s *Snapshot) Scheduler(addresses []netip.Addr, asked string) (scheduler, complaint string) {
	if len(addresses) == 0 {
		return "", ""
	}
	var pools []string // of the addresses, in words
	byIPVS := 0
	for _, address := range addresses {
		pool := s.PoolOf(address)
		if pool.ipvs() {
			byIPVS++
		}
		pools = append(pools, address.String()+" is "+pool.inWords())
	}
	first := s.PoolOf(addresses[0])
	switch {
	case byIPVS == 0 && asked != "":
		return "", fmt.Sprintf("annotation %s: %q has no effect: %s; take it out, or ask for a pool with dataplane IPVS with annotation %s",
			v1alpha1.AnnotationIPVSScheduler, asked, strings.Join(pools, ", "), v1alpha1.AnnotationPools)
	case byIPVS == 0:
		return "", ""
	case byIPVS < len(addresses):
		return "", fmt.Sprintf("kube-proxy forwards, since a Service has one dataplane: %s; give these pools the same spec.dataplane, or ask for others with annotation %s",
			strings.Join(pools, ", "), v1alpha1.AnnotationPools)
	case asked == "":
		return first.Scheduler, ""
	case !slices.Contains(schedulers, asked):
		return first.Scheduler, fmt.Sprintf("annotation %s: %q is no scheduler, so %s of IPPool %s serves; write one of %s",
			v1alpha1.AnnotationIPVSScheduler, asked, first.Scheduler, first.Name, strings.Join(schedulers, ", "))
	}
	return asked, ""
}

// ipvs tells whether Berth forwards for the pool; nil is no pool.
func (p *Pool) ipvs() bool { return p != nil && p.Scheduler != "" }

func (p *Pool) inWords() string {
	switch {
	case p == nil:
		return "in no IPPool"
	case p.ipvs():
		return fmt.Sprintf("of IPPool %s (dataplane IPVS)", p.Name)
	}
	return fmt.Sprintf("of IPPool %s (dataplane KubeProxy)", p.Name)
}
