package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/follow"
	"github.com/berth-lb/berth/kubectl/forecast"
	"github.com/berth-lb/berth/kubectl/verb"
)

// done is what a verb did to an object.
type done struct {
	Object string `json:"object"`
	// Changed: it was patched or created, or would be in a dry run.
	Changed bool `json:"changed"`
	// DryRun is client, server, or empty.
	DryRun string `json:"dryRun,omitempty"`
	Text   string `json:"text"`
	Next   string `json:"next,omitempty"` // what happens next
	// Foreseen is what comes of it, in a dry run of drain.
	Foreseen *forecast.Report `json:"foreseen,omitempty"`
}

// verbFlags are those of every verb.
type verbFlags struct {
	out    output
	dryRun string
}

func (v *verbFlags) register(cmd *cobra.Command) {
	v.out.register(cmd)
	cmd.Flags().
		StringVar(&v.dryRun, "dry-run", "none", "none, server or client: client only says what it would do, server has the API server check it, too")
	cmd.Flags().Lookup("dry-run").NoOptDefVal = "client"
	_ = cmd.RegisterFlagCompletionFunc(
		"dry-run",
		cobra.FixedCompletions([]string{"none", "server", "client"}, cobra.ShellCompDirectiveNoFileComp),
	)
	inner := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if !slices.Contains([]string{"none", "server", "client"}, v.dryRun) {
			return fmt.Errorf("--dry-run %s: write none, server or client", v.dryRun)
		}
		return inner(cmd, args)
	}
}

// dry reports whether nothing is to be changed.
func (v *verbFlags) dry() bool { return v.dryRun != "none" }

// server returns the dryRun of requests.
func (v *verbFlags) server() []string {
	if v.dryRun == "server" {
		return []string{metav1.DryRunAll}
	}
	return nil
}

// apply applies a change by patch, which is called only if there is something to do, and adds what
// was done to all.
func (v *verbFlags) apply(
	all []done,
	object string,
	c verb.Change,
	next string,
	patch func([]byte, metav1.PatchOptions) error,
) ([]done, error) {
	d := done{Object: object, Changed: !c.Empty(), Text: c.Text}
	if v.dry() {
		d.DryRun = v.dryRun
	}
	if d.Changed {
		d.Next = next
		body, err := json.Marshal(c.Patch())
		if err != nil {
			return all, err
		}
		if v.dryRun != "client" {
			if err := patch(body, metav1.PatchOptions{DryRun: v.server(), FieldManager: "kubectl-berth"}); err != nil {
				return all, err
			}
		}
	}
	return append(all, d), nil
}

// print says what was done.
func (v *verbFlags) print(w io.Writer, all []done) error {
	return v.out.print(w, all, func(w io.Writer, _ bool) {
		for _, d := range all {
			text := d.Text
			if d.DryRun != "" && d.Changed {
				text += " (" + d.DryRun + " dry run)"
			}
			fmt.Fprintln(w, text)
			if d.Next != "" {
				fmt.Fprintln(w, "  next: "+d.Next)
			}
			if d.Foreseen != nil {
				writeReport(w, *d.Foreseen)
			}
		}
	})
}

const berthGroup = "berth.dev"

func rebalanceCommand(c *common) *cobra.Command {
	var v verbFlags
	cmd := &cobra.Command{
		Use:   "rebalance [SEGMENTANNOUNCEMENT...]",
		Short: "Move addresses back to the nodes that come first for them",
		Long: `Move addresses back to the nodes that come first for them, in planned moves, one per
node and second. Without it owners stay, even if a node comes back. It sets the
annotation berth.dev/rebalance of the SegmentAnnouncements, of all if none is named.`,
		Example: `  # After nodes were restarted, spread addresses again
  kubectl berth rebalance

  # Those of one announcement
  kubectl berth rebalance edge`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: c.complete(announcements),
		RunE: func(cmd *cobra.Command, names []string) error {
			to, err := c.clients()
			if err != nil {
				return err
			}
			list, err := to.Berth.SegmentAnnouncements.List(cmd.Context(), metav1.ListOptions{})
			if err != nil {
				return cluster.Right(err, "list", berthGroup, "segmentannouncements")
			}
			var there []string
			for i := range list.Items {
				there = append(there, list.Items[i].Name)
			}
			for _, name := range names {
				if !slices.Contains(there, name) {
					return fmt.Errorf(
						"there is no SegmentAnnouncement %s; there is %s",
						name,
						dash(strings.Join(there, ", ")),
					)
				}
			}
			if len(names) == 0 {
				names = there
			}
			all := []done{}
			for _, name := range names {
				change := verb.Change{
					Annotations: map[string]*string{
						v1alpha1.AnnotationRebalance: new(time.Now().UTC().Format(time.RFC3339Nano)),
					},
					Text: "SegmentAnnouncement " + name + " is asked to rebalance",
				}
				all, err = v.apply(
					all,
					"segmentannouncement/"+name,
					change,
					"each node hands over what another comes first for, one address per second: kubectl berth l2 owners",
					func(body []byte, o metav1.PatchOptions) error {
						_, err := to.Berth.SegmentAnnouncements.Patch(
							cmd.Context(),
							name,
							types.MergePatchType,
							body,
							o,
						)
						return cluster.Right(err, "patch", berthGroup, "segmentannouncements")
					},
				)
				if err != nil {
					return err
				}
			}
			if len(all) == 0 && v.out.format == "table" {
				fmt.Fprintln(c.Out, "there is no SegmentAnnouncement")
				return nil
			}
			return v.print(c.Out, all)
		},
	}
	v.register(cmd)
	return cmd
}

func drainCommand(c *common) *cobra.Command {
	var v verbFlags
	var wait, undo bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Take a node out of load balancing, or back",
		Long: `Take a node out of load balancing: other nodes take over its addresses, and its routes
are withdrawn. Its Pods stay. It sets the label ` + v1alpha1.ExcludeLabel + `,
which other load balancers heed, too. --undo removes the label if this command has set it.`,
		Example: `  # Before maintenance of a node: return when it answers for nothing
  kubectl berth drain n1 --wait

  # What would that move?
  kubectl berth drain n1 --dry-run

  # Afterwards
  kubectl berth drain n1 --undo`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(nodes),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := strings.TrimPrefix(args[0], "node/")
			to, err := c.clients()
			if err != nil {
				return err
			}
			node, err := to.Kubernetes.CoreV1().Nodes().Get(cmd.Context(), name, metav1.GetOptions{})
			if err != nil {
				return cluster.Right(err, "get", "", "nodes")
			}
			change := verb.Drain(node)
			next := "other nodes take over what it answers for, and routers its routes: kubectl berth l2 owners --node " + name
			if undo {
				if change, err = verb.Undo(node); err != nil {
					return err
				}
				next = "owners stay, so it answers for new addresses only, until kubectl berth rebalance; its routes come back by themselves"
			}
			all, err := v.apply([]done{}, "node/"+name, change, next, func(body []byte, o metav1.PatchOptions) error {
				_, err := to.Kubernetes.CoreV1().Nodes().Patch(cmd.Context(), name, types.MergePatchType, body, o)
				return cluster.Right(err, "patch", "", "nodes")
			})
			if err != nil {
				return err
			}
			if v.dry() {
				state, err := c.state(cmd.Context())
				if err != nil {
					return err
				}
				if lack := forecast.Lack(state); lack == "" {
					changed := node.DeepCopy()
					change.Apply(changed)
					all[len(all)-1].Foreseen = new(forecast.Between(state, forecast.WithNode(state, changed)))
				} else {
					fmt.Fprintln(c.ErrOut, "note: what moves cannot be foreseen without", lack)
				}
			}
			if wait && !v.dry() {
				ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
				defer cancel()
				last := &all[len(all)-1]
				last.Next = ""
				if undo {
					err = follow.Speakers(ctx, to, func(seen follow.Reports) string {
						return prefixed("node "+name+" ", verb.Returned(name, seen.Speaker(name)))
					})
					last.Text += "; its speaker announces"
				} else {
					err = follow.Speakers(ctx, to, func(seen follow.Reports) string {
						return prefixed("node "+name+" ", verb.Left(name, seen.Speaker(name), seen.Owners))
					})
					last.Text += "; it answers for nothing, and announces nothing"
				}
				if err != nil {
					return err
				}
			}
			return v.print(c.Out, all)
		},
	}
	v.register(cmd)
	cmd.Flags().
		BoolVar(&wait, "wait", false, "return when the node answers for nothing and announces nothing; with --undo, when its speaker announces")
	cmd.Flags().BoolVar(&undo, "undo", false, "take the node back, if this command took it out")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to --wait")
	return cmd
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

func releaseCommand(c *common) *cobra.Command {
	var v verbFlags
	var every bool
	cmd := &cobra.Command{
		Use:   "release SERVICE (ADDRESS... | --all)",
		Short: "Have a Service give up addresses that are in no pool any longer",
		Long: `Have a Service give up addresses that are in no pool any longer, which it keeps
otherwise. It sets the annotation berth.dev/release of the Service.`,
		Example: `  # After the pool of a Service was narrowed
  kubectl berth release web --all -n shop

  # One address
  kubectl berth release web 192.0.2.9 -n shop`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 || every != (len(args) == 1) {
				return fmt.Errorf(
					"name a Service, and its addresses to release, or --all: kubectl berth release web 192.0.2.9",
				)
			}
			return nil
		},
		ValidArgsFunction: c.complete(balanced),
		RunE: func(cmd *cobra.Command, args []string) error {
			namespace, err := c.currentNamespace()
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(strings.TrimPrefix(args[0], "service/"), "svc/")
			addresses, err := parseAddresses(args[1:])
			if err != nil {
				return err
			}
			s, err := c.state(cmd.Context())
			if err != nil {
				return err
			}
			svc := s.Service(namespace, name)
			switch {
			case svc == nil && len(s.Lack(cluster.Services)) > 0:
				return fmt.Errorf(
					"you have no right to list services, so Service %s/%s is not known",
					namespace,
					name,
				)
			case svc == nil:
				return fmt.Errorf(
					"there is no Service %s in namespace %s; name its namespace with -n",
					name,
					namespace,
				)
			}
			change, err := verb.Release(s, svc, addresses, every)
			if err != nil {
				return err
			}
			to, err := c.clients()
			if err != nil {
				return err
			}
			all, err := v.apply(
				[]done{},
				"service/"+name,
				change,
				"the controller takes it away, and gives another of a pool that serves the Service: kubectl berth why "+name+" -n "+namespace,
				func(body []byte, o metav1.PatchOptions) error {
					_, err := to.Kubernetes.CoreV1().
						Services(namespace).
						Patch(cmd.Context(), name, types.MergePatchType, body, o)
					return cluster.Right(err, "patch", "", "services")
				},
			)
			if err != nil {
				return err
			}
			return v.print(c.Out, all)
		},
	}
	cmd.Flags().BoolVar(&every, "all", false, "all its addresses that are in no pool")
	v.register(cmd)
	return cmd
}

func parseAddresses(all []string) ([]netip.Addr, error) {
	var addresses []netip.Addr
	for _, text := range all {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return nil, fmt.Errorf("%s is not an address; write one such as 192.0.2.1", text)
		}
		addresses = append(addresses, a.Unmap())
	}
	return addresses, nil
}

func reserveCommand(c *common) *cobra.Command {
	var v verbFlags
	var service, name string
	cmd := &cobra.Command{
		Use:   "reserve ADDRESS [ADDRESS]",
		Short: "Keep addresses for a namespace, or for one Service of it",
		Long: `Keep an address, or one of each family, for a namespace, or for one Service of it: while
the Service is deleted and created again, and through a restore from a backup. It
creates an AddressReservation, unless the controller would not keep the address.`,
		Example: `  # Keep the address that Service web has
  kubectl berth reserve 192.0.2.10 --for web -n shop`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			namespace, err := c.currentNamespace()
			if err != nil {
				return err
			}
			addresses, err := parseAddresses(args)
			if err != nil {
				return err
			}
			r := &v1alpha1.AddressReservation{}
			r.Namespace, r.Name, r.Spec.ServiceName = namespace, name, service
			for _, a := range addresses {
				r.Spec.Addresses = append(r.Spec.Addresses, a.String())
			}
			switch {
			case r.Name == "" && service != "":
				r.Name = service
			case r.Name == "":
				r.Name = "reserved-" + strings.Trim(
					strings.NewReplacer(".", "-", ":", "-").Replace(r.Spec.Addresses[0]),
					"-",
				)
			}
			s, err := c.state(cmd.Context())
			if err != nil {
				return err
			}
			if lack := s.Lack(cluster.Pools, cluster.Services, cluster.Namespaces, cluster.Reservations); len(
				lack,
			) > 0 {
				return fmt.Errorf(
					"whether the controller would keep it is not known without the right to list %s",
					lack[0],
				)
			}
			text := fmt.Sprintf(
				"AddressReservation %s/%s keeps %s",
				namespace,
				r.Name,
				strings.Join(r.Spec.Addresses, " and "),
			)
			there := slices.ContainsFunc(s.Reservations, func(x *v1alpha1.AddressReservation) bool {
				return x.Namespace == r.Namespace && x.Name == r.Name &&
					slices.Equal(x.Spec.Addresses, r.Spec.Addresses) &&
					x.Spec.ServiceName == service
			})
			if there {
				text += " already"
			} else if refusal := verb.Refusal(s, r); refusal != "" {
				return fmt.Errorf("nothing is reserved, since the controller would refuse: %s", refusal)
			}
			to, err := c.clients()
			if err != nil {
				return err
			}
			d := done{Object: "addressreservation/" + r.Name, Changed: !there, Text: text}
			if v.dry() {
				d.DryRun = v.dryRun
			}
			if d.Changed && v.dryRun != "client" {
				_, err := to.Berth.AddressReservations(namespace).
					Create(cmd.Context(), r, metav1.CreateOptions{DryRun: v.server(), FieldManager: "kubectl-berth"})
				if apierrors.IsAlreadyExists(err) {
					return fmt.Errorf(
						"AddressReservation %s/%s keeps something else; give this one another --name",
						namespace,
						r.Name,
					)
				}
				if err != nil {
					return cluster.Right(err, "create", berthGroup, "addressreservations")
				}
				d.Next = fmt.Sprintf(
					"condition Ready says that it is kept: kubectl get addressreservations.berth.dev %s -n %s",
					r.Name,
					namespace,
				)
			}
			return v.print(c.Out, []done{d})
		},
	}
	v.register(cmd)
	cmd.Flags().
		StringVar(&service, "for", "", "Service of the namespace that gets the addresses; otherwise any Service there may ask for them")
	cmd.Flags().StringVar(&name, "name", "", "of the AddressReservation; otherwise that of the Service")
	return cmd
}

func rotateKeyCommand(c *common) *cobra.Command {
	var v verbFlags
	var wait bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "rotate-key",
		Short: "Replace the key with which speakers sign what they send to each other",
		Long: `Replace the key with which speakers sign what they send to each other. No address moves:
a speaker signs with the new key once all accept it. It sets the annotation
berth.dev/rotate of Secret berth-hello.`,
		Example: `  # Replace the key, and return when no speaker accepts the former one
  kubectl berth rotate-key --wait`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			to, err := c.clients()
			if err != nil {
				return err
			}
			var before []string
			if wait {
				list, err := to.Berth.Speakers.List(cmd.Context(), metav1.ListOptions{})
				if err != nil {
					return cluster.Right(err, "list", berthGroup, "speakers")
				}
				before = verb.Keys(pointers(list.Items))
			}
			change := verb.Change{
				Annotations: map[string]*string{
					v1alpha1.AnnotationRotate: new(time.Now().UTC().Format(time.RFC3339Nano)),
				},
				Text: "a new key is asked for",
			}
			all, err := v.apply(
				[]done{},
				"secret/"+v1alpha1.HelloSecret,
				change,
				"the controller makes one, and speakers sign with it once all accept it: kubectl get speakers.berth.dev -o custom-columns=NODE:.metadata.name,KEY:.status.signingKey",
				func(body []byte, o metav1.PatchOptions) error {
					_, err := to.Kubernetes.CoreV1().
						Secrets(c.namespace).
						Patch(cmd.Context(), v1alpha1.HelloSecret, types.MergePatchType, body, o)
					return cluster.Right(err, "patch", "", "secrets")
				},
			)
			if err != nil {
				return err
			}
			if wait && !v.dry() {
				ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
				defer cancel()
				err := follow.Speakers(ctx, to, func(seen follow.Reports) string {
					return prefixed(
						"no new key alone yet on ",
						strings.Join(verb.Unrotated(seen.Speakers, before), ", "),
					)
				})
				if err != nil {
					return err
				}
				all[0].Text, all[0].Next = "every speaker signs with a new key, and accepts no other", ""
			}
			return v.print(c.Out, all)
		},
	}
	v.register(cmd)
	cmd.Flags().BoolVar(&wait, "wait", false, "return when every speaker signs with a new key, and accepts no other")
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long to --wait")
	return cmd
}

func pointers[T any](all []T) []*T {
	var found []*T
	for i := range all {
		found = append(found, &all[i])
	}
	return found
}
