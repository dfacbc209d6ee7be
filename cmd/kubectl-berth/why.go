package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/internal/steerquery"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/steering"
	"github.com/berth-lb/berth/kubectl/why"
)

func whyCommand(c *common) *cobra.Command {
	var out output
	var connection steering.Choice
	cmd := &cobra.Command{
		Use:   "why SERVICE",
		Short: "Follow a Service from the object to the packet, and say where it ends",
		Long: `Follow a Service from the object to the packet, and say where it ends.

The last two lines are what keeps clients out, and the command to go on with. The
exit code is 0 if nothing that the cluster shows keeps clients out, 1 if something
does.

With --client it says to which node a steered Service's packets from there go. It asks
each speaker, by running berth route in its pod, which needs the right to create pods/exec
in Berth's namespace. The exit code is 0 if it is one node, 1 if there is none.`,
		Example: `  # Why does Service web not answer?
  kubectl berth why web

  # With all nodes, sessions and Pods
  kubectl berth why web -n shop -o wide

  # For a script
  kubectl berth why web -o json | jq -r .verdict

  # To which node does steering send this client?
  kubectl berth why web --client 192.0.2.9:40000

  # The same of one port of several
  kubectl berth why dns -n infra --client 192.0.2.9:40000 --port 53 --protocol UDP`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(balanced),
		RunE: func(cmd *cobra.Command, args []string) error {
			namespace, err := c.currentNamespace()
			if err != nil {
				return err
			}
			name := strings.TrimPrefix(strings.TrimPrefix(args[0], "service/"), "svc/")
			s, err := c.state(cmd.Context())
			if err != nil {
				return err
			}
			if connection != (steering.Choice{}) {
				return c.whereTo(cmd.Context(), s, namespace, name, connection, &out)
			}
			pods, err := c.podsOf(cmd.Context(), namespace)
			if err != nil {
				return err
			}
			report := why.Of(s, namespace, name, pods)
			if report == nil {
				return noService(namespace, name)
			}
			if err := out.print(c.Out, report, func(w io.Writer, wide bool) { printWhy(w, report, wide) }); err != nil {
				return err
			}
			if !report.Reachable {
				return errFinds
			}
			return nil
		},
	}
	out.register(cmd)
	registerConnection(cmd, &connection)
	return cmd
}

func noService(namespace, name string) error {
	return fmt.Errorf("there is no Service %s in namespace %s; name its namespace with -n", name, namespace)
}

// registerConnection adds the flags that name a connection.
func registerConnection(cmd *cobra.Command, c *steering.Choice) {
	cmd.Flags().
		StringVar(&c.Client, "client", "", "ADDRESS:PORT of a client, to say to which node its packets are steered")
	cmd.Flags().
		StringVar(&c.Port, "port", "", "with --client: the Service's port by number or name, if it has several")
	cmd.Flags().StringVar(&c.Protocol, "protocol", "", "with --client: TCP, UDP or SCTP, if the port has several")
	cmd.Flags().
		StringVar(&c.Address, "address", "", "with --client: the Service's address, if it has several of a family")
	for _, name := range []string{"client", "port", "address"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	_ = cmd.RegisterFlagCompletionFunc(
		"protocol", cobra.FixedCompletions(steerquery.Protocols, cobra.ShellCompDirectiveNoFileComp))
}

// whereTo says to which node the packets of a client go, and why.
func (c *common) whereTo(
	ctx context.Context, s *cluster.State, namespace, name string, connection steering.Choice, out *output,
) error {
	if c.from != "" {
		return errors.New("--client asks the speakers, and --bundle reads an archive; leave out one of them")
	}
	svc := s.Service(namespace, name)
	if svc == nil {
		return noService(namespace, name)
	}
	q, err := steering.QueryOf(svc, connection)
	if err != nil {
		return err
	}
	var report *steering.Report
	if reason := why.NotSteered(s, namespace, name); reason != "" {
		report = steering.NotSteered(namespace, name, q, reason)
	} else {
		nodes, err := c.askWhereTo(ctx, q)
		if err != nil {
			return err
		}
		for i := range nodes {
			nodes[i].Owner = slices.ContainsFunc(s.Owners, func(o *v1alpha1.L2Owner) bool {
				return o.Status.NodeName == nodes[i].By && o.Status.Address == q.Service.Addr().String()
			})
		}
		report = steering.Of(namespace, name, q, nodes)
	}
	if err := out.print(c.Out, report, func(w io.Writer, _ bool) { report.WriteTable(w) }); err != nil {
		return err
	}
	if report.To == "" {
		return errFinds
	}
	return nil
}

// askWhereTo asks the speakers of all nodes.
func (c *common) askWhereTo(ctx context.Context, q steerquery.Query) (nodes []steering.Node, err error) {
	to, err := c.clients()
	if err != nil {
		return nil, err
	}
	command := []string{
		"route", "--service", q.Service.String(), "--client", q.Client.String(), "--protocol", q.Protocol,
	}
	err = c.askSpeakers(ctx, to, "", command, func(by string, said io.Reader) error {
		n := steering.Node{By: by}
		switch err := json.NewDecoder(said).Decode(&n.Answer); {
		case errors.Is(err, io.EOF): // it said nothing, and why is known already
			return nil
		case err != nil:
			return err
		}
		nodes = append(nodes, n)
		return nil
	})
	return nodes, err
}

// podsOf reads the Pods of a namespace.
func (c *common) podsOf(ctx context.Context, namespace string) (why.Pods, error) {
	if c.from != "" {
		b, err := c.archive()
		if err != nil {
			return why.Pods{}, err
		}
		return b.Pods(namespace), nil
	}
	to, err := c.clients()
	if err != nil {
		return why.Pods{}, err
	}
	return podsOf(ctx, to, namespace), nil
}

// signs are what grades look like.
var signs = map[why.Grade]string{why.OK: "ok", why.Note: "note", why.Warning: "WARN", why.Failure: "FAIL"}

func printWhy(w io.Writer, r *why.Report, wide bool) {
	fmt.Fprintf(w, "Service %s/%s: %s\n\n", r.Namespace, r.Name, r.Summary)
	for _, s := range r.Steps {
		fmt.Fprintf(w, "%s\t%s\t%s\n", signs[s.Grade], s.Name, s.Text)
		if wide || s.Grade != why.OK || s.Name == "Events" || s.Name == "Owner" {
			for _, d := range s.Details {
				fmt.Fprintf(w, "\t\t  %s\n", d)
			}
		}
	}
	fmt.Fprintf(w, "\nWhy:  %s\nNext: %s\n", r.Verdict, r.Next)
}

// podsOf reads the Pods of a namespace.
func podsOf(ctx context.Context, to *cluster.Clients, namespace string) why.Pods {
	list, err := to.Kubernetes.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return why.Pods{Err: err}
	}
	var pods why.Pods
	for i := range list.Items {
		pods.All = append(pods.All, &list.Items[i])
	}
	return pods
}
