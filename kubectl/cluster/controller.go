package cluster

import (
	"io"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/pflag"

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
}

// componentLabel tells Berth's controller from its speaker.
const componentLabel = "app.kubernetes.io/component"

// Controller returns the flags of the controller, as its Deployment has them. What does not parse
// counts as the default: such a controller does not start.
func (s *State) Controller() ControllerFlags {
	f := ControllerFlags{}
	var serviceCIDRs, podCIDRs []string
	flags := pflag.NewFlagSet("controller", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags = true
	flags.SetOutput(io.Discard)
	flags.BoolVar(&f.Classless, "serve-classless", true, "")
	flags.StringSliceVar(&f.Classes, "classes", []string{v1alpha1.LoadBalancerClass}, "")
	flags.DurationVar(&f.Rest, "rest", time.Minute, "")
	flags.BoolVar(&f.ReleaseOutside, "release-outside-pools", false, "")
	flags.StringSliceVar(&serviceCIDRs, "service-cidrs", nil, "")
	flags.StringSliceVar(&podCIDRs, "pod-cidrs", nil, "")
	flags.IntVar(&f.ReservationsPerNamespace, "reservations-per-namespace", 64, "")
	for _, d := range s.Deployments {
		if d.Namespace != s.Namespace || d.Labels[componentLabel] != "controller" {
			continue
		}
		for _, c := range d.Spec.Template.Spec.Containers {
			if args := slices.Concat(c.Command, c.Args); slices.Contains(args, "controller") {
				f.Found = true
				_ = flags.Parse(args)
			}
		}
	}
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
