package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/internal/version"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/doctor"
	"github.com/berth-lb/berth/kubectl/doctor/pods"
)

func doctorCommand(c *common) *cobra.Command {
	var out output
	var ranges []string
	var file string
	var probes probing
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what keeps Berth from working, before an install and after",
		Long: `Look for what keeps Berth from working, before an install and after.

It reads the cluster: other load balancers, kube-proxy, ports, labels, admission,
addresses of pools that somebody has, and, once Berth is installed, all its parts.
Each finding has an ID, which docs/reference/doctor.md explains. The exit code is 1
if there is one.

With --nodes it also looks from the nodes. It runs a pod on each, in the node's
network and with the capability NET_RAW, and deletes it when all have looked. They
listen whether hellos of the other nodes arrive, measure the MTU between nodes, call
routers that the node has no session with, and look at the kernel. Few of them ask
the segments who answers for the pools' addresses, by ARP and NDP: three nodes of a
segment, and up to six of all nodes whose speakers report none, as before an install.
All together send --rate questions a second on a segment. They change nothing, except
that the kernel loads its module ip_vs if a pool has the dataplane IPVS. It needs the
rights to create, get, list and delete pods, and to get pods/log, in the namespace of
the pods: Berth's, or that of --namespace. Before an install there is no image that the
nodes are known to have: name one that they can pull with --image.`,
		Example: `  # Before an install: is the cluster fit, and are these addresses free?
  kubectl berth doctor --pool 192.0.2.100-192.0.2.150

  # The same for pools in a file
  kubectl berth doctor -f pools.yaml

  # After an install: is all well?
  kubectl berth doctor

  # And what do the nodes see?
  kubectl berth doctor --nodes

  # The same before an install
  kubectl berth doctor --nodes --image registry.example.com/berth:v0.1.0 -n kube-system`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := probes.check(c); err != nil {
				return err
			}
			proposed, err := c.proposal(ranges, file)
			if err != nil {
				return err
			}
			report, err := c.examine(cmd.Context(), proposed, probes)
			if err != nil {
				return err
			}
			if err := out.print(c.Out, report, func(w io.Writer, wide bool) { printReport(w, report, wide) }); err != nil {
				return err
			}
			if len(report.Findings) > 0 {
				return errFinds
			}
			return nil
		},
	}
	out.register(cmd)
	cmd.Flags().
		StringArrayVar(&ranges, "pool", nil, "addresses of a pool that is to be, such as 192.0.2.0/28 or 192.0.2.1-192.0.2.9; may be repeated")
	cmd.Flags().
		StringVarP(&file, "filename", "f", "", "file with LoadBalancerPools that are to be; - is standard input")
	cmd.MarkFlagsMutuallyExclusive("pool", "filename")
	probes.register(cmd)
	return cmd
}

// proposal returns the pools that are to be, nil if none are named.
func (c *common) proposal(ranges []string, file string) (*doctor.Proposal, error) {
	switch {
	case len(ranges) > 0:
		return doctor.ProposeRanges(ranges), nil
	case file == "":
		return nil, nil
	case file == "-":
		return doctor.ProposeYAML(c.In)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	p, err := doctor.ProposeYAML(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}

func (c *common) examine(ctx context.Context, proposed *doctor.Proposal, probes probing) (doctor.Report, error) {
	s, err := c.read(ctx)
	if err != nil {
		return doctor.Report{}, err
	}
	var seen *doctor.Seen
	if probes.nodes {
		if seen, err = c.probe(ctx, s, proposed, probes); err != nil {
			return doctor.Report{}, err
		}
		if s, err = c.read(ctx); err != nil { // as it is now: it took a while
			return doctor.Report{}, err
		}
	}
	extras, err := c.extras(ctx)
	if err != nil {
		return doctor.Report{}, err
	}
	return doctor.Look(s, extras, proposed, seen), nil
}

// extras reads what only the doctor needs.
func (c *common) extras(ctx context.Context) (*doctor.Extras, error) {
	if c.from != "" {
		b, err := c.archive()
		if err != nil {
			return nil, err
		}
		return b.Extras()
	}
	to, err := c.clients()
	if err != nil {
		return nil, err
	}
	return doctor.Read(ctx, to, c.namespace)
}

func printReport(w io.Writer, r doctor.Report, wide bool) {
	for _, f := range r.Findings {
		object := ""
		if f.Object != "" {
			object = f.Object + ": "
		}
		fmt.Fprintf(w, "%s %s: %s%s\n  remedy: %s\n", f.Severity, f.ID, object, f.What, f.Remedy)
		if wide {
			fmt.Fprintf(w, "  more: %s\n", f.Docs)
		}
	}
	if len(r.Findings) == 0 {
		fmt.Fprintln(w, "Nothing is wrong.")
	}
	for _, text := range r.Facts {
		fmt.Fprintln(w, "seen:", text)
	}
	for _, text := range r.Unknown {
		fmt.Fprintln(w, "not known:", text)
	}
}

// probing is how the doctor looks from the nodes.
type probing struct {
	nodes   bool
	image   string
	timeout time.Duration
	rate    int
}

func (p *probing) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&p.nodes, "nodes", false,
		"look from the nodes too, by a short-lived pod on each, in Berth's namespace or that of --namespace")
	cmd.Flags().StringVar(&p.image, "image", "",
		"image of these pods, which has /berth; that of the installed speaker if empty, else that of this version's manifests")
	cmd.Flags().
		DurationVar(&p.timeout, "timeout", 2*time.Minute, "how long these pods may take, from 10s, beside the time that questions for addresses take")
	cmd.Flags().IntVar(&p.rate, "rate", doctor.DefaultRate,
		"questions for addresses that all these pods together send on a segment in a second, from 1 to 1000")
}

// shortest is the least that probes need.
const shortest = 10 * time.Second

// check reports flags that contradict each other.
func (p probing) check(c *common) error {
	switch {
	case !p.nodes && p.image != "":
		return errors.New("--image: it is of the pods that --nodes runs; write --nodes too, or leave it out")
	case !p.nodes:
		return nil
	case c.from != "":
		return errors.New("--nodes: pods run in a cluster, and --bundle reads none; leave out one of the two")
	case p.timeout < shortest:
		return fmt.Errorf("--timeout %s: is too short; write 10s or more", p.timeout)
	case p.rate < 1 || p.rate > doctor.MaxRate:
		return fmt.Errorf("--rate %d: is no rate of questions; write 1 to %d", p.rate, doctor.MaxRate)
	}
	return nil
}

// imageOf returns the image of the pods, and a note if the nodes may have none such.
func (p probing) imageOf(installed string) (image, note string) {
	if image = cmp.Or(p.image, installed); image != "" {
		return image, ""
	}
	image = "localhost/berth:" + version.Number()
	return image, fmt.Sprintf(
		"note: no speaker is installed whose image the pods could run: %s has to be on the nodes; "+
			"if it is not, name one that they can pull with --image\n",
		image,
	)
}

// probe runs the probes.
func (c *common) probe(
	ctx context.Context,
	s *cluster.State,
	proposed *doctor.Proposal,
	p probing,
) (*doctor.Seen, error) {
	if err := s.Missing[cluster.Nodes]; err != nil {
		return nil, cluster.Right(err, "list", "", "nodes")
	}
	to, err := c.clients()
	if err != nil {
		return nil, err
	}
	namespace := c.namespace
	if c.config.Namespace != nil && *c.config.Namespace != "" {
		namespace = *c.config.Namespace
	}
	installed, account, secrets := pods.Installed(s)
	image, note := p.imageOf(installed)
	fmt.Fprint(c.ErrOut, note)
	runner := pods.Runner{Kubernetes: to.Kubernetes, Namespace: namespace, Image: image, Timeout: p.timeout}
	if namespace == s.Namespace {
		runner.Account, runner.PullSecrets = account, secrets
	}
	plan := doctor.PlanNodes(s, proposed, p.rate)
	if plan.HasPasswords() {
		if why := mayTry(ctx, to, namespace, s.Namespace); why == "" {
			plan.TryPasswords()
		} else {
			plan.Unknown = append(plan.Unknown, "whether routers take the passwords of BGPNeighbors: "+why)
		}
	}
	fmt.Fprintf(c.ErrOut, "note: a pod runs on each of %d nodes for %s, in namespace %s, with image %s\n",
		len(plan.Requests), lasting(plan.Takes), namespace, runner.Image)
	return runner.Run(ctx, plan)
}

// lasting says how long the pods run whose questions take a time.
func lasting(asking time.Duration) string {
	if asking < 10*time.Second {
		return "a few seconds"
	}
	return fmt.Sprintf("about %s (see --rate)", asking.Round(time.Second))
}

// mayTry returns why the passwords of routers may not be tried; empty: they may.
func mayTry(ctx context.Context, to *cluster.Clients, namespace, berth string) string {
	if namespace != berth {
		return fmt.Sprintf("the Secrets are in namespace %s, and the pods in %s", berth, namespace)
	}
	review, err := to.Kubernetes.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx,
		&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: namespace,
				Verb:      "get",
				Resource:  "secrets",
			},
		}}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return err.Error()
	case !review.Status.Allowed:
		return "you have no right to get secrets in namespace " + namespace
	}
	return ""
}
