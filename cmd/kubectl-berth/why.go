package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/why"
)

func whyCommand(c *common) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "why SERVICE",
		Short: "Follow a Service from the object to the packet, and say where it ends",
		Long: `Follow a Service from the object to the packet, and say where it ends.

The last two lines are what keeps clients out, and the command to go on with. The
exit code is 0 if nothing that the cluster shows keeps clients out, 1 if something
does.`,
		Example: `  # Why does Service web not answer?
  kubectl berth why web

  # With all nodes, sessions and Pods
  kubectl berth why web -n shop -o wide

  # For a script
  kubectl berth why web -o json | jq -r .verdict`,
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
			pods, err := c.podsOf(cmd.Context(), namespace)
			if err != nil {
				return err
			}
			report := why.Of(s, namespace, name, pods)
			if report == nil {
				return fmt.Errorf(
					"there is no Service %s in namespace %s; name its namespace with -n",
					name,
					namespace,
				)
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
	return cmd
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
