package cluster

import (
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/dialect"
	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// ControllerFlags are the flags of the controller that change what it decides.
type ControllerFlags struct {
	// Found: there is a Deployment to read them from. Otherwise they are the defaults.
	Found                    bool
	Classes                  []string
	Classless                bool
	Rest                     time.Duration
	ReleaseOutside           bool
	ServiceCIDRs, PodCIDRs   []netip.Prefix
	ReservationsPerNamespace int
	// Honored are the load balancers whose annotations count.
	Honored dialect.Honored
}

// ComponentLabel tells Berth's controller from its speaker.
const ComponentLabel = "app.kubernetes.io/component"

// Component returns which part of Berth has these labels, such as speaker; empty: it is not
// Berth's. Where Berth is installed in kube-system, others are around it.
func Component(labels map[string]string) string {
	if labels["app.kubernetes.io/name"] != "berth" {
		return ""
	}
	return labels[ComponentLabel]
}

// Controller returns the flags of the controller, as its Deployment has them. What does not parse
// counts as the default: such a controller does not start.
func (s *State) Controller() ControllerFlags {
	f := ControllerFlags{}
	var serviceCIDRs, podCIDRs, honored []string
	flags := pflag.NewFlagSet("controller", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags = true
	flags.SetOutput(io.Discard)
	flags.BoolVar(&f.Classless, "serve-classless", true, "")
	flags.StringSliceVar(&f.Classes, "classes", []string{v1alpha1.LoadBalancerClass}, "")
	flags.DurationVar(&f.Rest, "rest", time.Minute, "")
	flags.BoolVar(&f.ReleaseOutside, "release-outside-pools", false, "")
	flags.StringSliceVar(&serviceCIDRs, "service-cidrs", nil, "")
	flags.StringSliceVar(&podCIDRs, "pod-cidrs", nil, "")
	flags.StringSliceVar(&honored, "honor-annotations", nil, "")
	flags.IntVar(&f.ReservationsPerNamespace, "reservations-per-namespace", 64, "")
	for _, d := range s.Deployments {
		if d.Namespace != s.Namespace || Component(d.Labels) != "controller" {
			continue
		}
		for _, c := range d.Spec.Template.Spec.Containers {
			if args := slices.Concat(c.Command, c.Args); slices.Contains(args, "controller") {
				f.Found = true
				_ = flags.Parse(args)
			}
		}
	}
	f.Honored, _ = dialect.Parse(honored) // with a name that is not known the controller does not start
	f.ServiceCIDRs, f.PodCIDRs = prefixes(serviceCIDRs), prefixes(podCIDRs)
	return f
}

func prefixes(texts []string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		if p, err := netip.ParsePrefix(text); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// Leadership is what is known of the controllers.
type Leadership struct {
	// Installed: there is a Deployment, with so many Pods wanted and ready.
	Installed     bool
	Wanted, Ready int32
	// Holder is the Pod that leads, as of the Lease, which it last renewed then.
	Holder  string
	Renewed time.Time
	// Unknown: what shows it could not be read.
	Unknown bool
}

// leaseTime is the time after which a Lease that is not renewed counts as given up. It is longer
// than the controllers' own, since the clock that State.Taken is of may differ from theirs.
const leaseTime = 30 * time.Second

// Leadership returns what is known of the controllers.
func (s *State) Leadership() Leadership {
	l := Leadership{Unknown: len(s.Lack(Deployments, Leases)) > 0}
	for _, d := range s.Deployments {
		if d.Namespace != s.Namespace || Component(d.Labels) != "controller" {
			continue
		}
		l.Installed = true
		l.Ready += d.Status.ReadyReplicas
		if d.Spec.Replicas != nil {
			l.Wanted += *d.Spec.Replicas
		}
	}
	for _, lease := range s.Leases {
		if lease.Name == "berth-controller" && lease.Spec.HolderIdentity != nil && lease.Spec.RenewTime != nil {
			l.Holder, l.Renewed = *lease.Spec.HolderIdentity, lease.Spec.RenewTime.Time
		}
	}
	return l
}

// Leads reports whether a controller leads at that time.
func (l Leadership) Leads(now time.Time) bool {
	return l.Holder != "" && now.Sub(l.Renewed) <= leaseTime
}

// Uses returns which addresses are somebody else's, as the controller sees it.
func (s *State) Uses(snapshot *config.Snapshot) *inuse.Set {
	flags := s.Controller()
	from := inuse.Sources{
		Nodes: s.Nodes, Speakers: s.Speakers, Peers: peerAddresses(snapshot), APIServer: s.apiServer(),
		ServiceCIDRs: flags.ServiceCIDRs, PodCIDRs: flags.PodCIDRs,
	}
	for _, c := range s.ServiceCIDRs {
		from.ServiceCIDRs = append(from.ServiceCIDRs, prefixes(c.Spec.CIDRs)...)
	}
	return inuse.Compile(from)
}
