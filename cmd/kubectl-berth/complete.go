package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/kubectl/cluster"
)

// completeNames returns a completion of arguments by names from the cluster, each once.
func (c *common) completeNames(names func(context.Context, *cluster.Clients) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		if cmd.ValidateArgs(append(given, "x")) != nil { // it takes no more arguments
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		to, err := c.clients()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		found, err := names(ctx, to)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

func nodeNames(ctx context.Context, to *cluster.Clients) (names []string, err error) {
	list, err := to.Kubernetes.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names, nil
}

func announcementNames(ctx context.Context, to *cluster.Clients) (names []string, err error) {
	list, err := to.Berth.SegmentAnnouncements.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names, nil
}

func neighborNames(ctx context.Context, to *cluster.Clients) (names []string, err error) {
	list, err := to.Berth.BGPNeighbors.List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names, nil
}

// kubectlCompletion is the program that kubectl asks for completions of kubectl berth.
const kubectlCompletion = `#!/bin/sh
exec kubectl-berth __complete "$@"
`

// addKubectlCompletion adds kubectl to the shells that the command completion knows.
func addKubectlCompletion(c *common, root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, completion := range root.Commands() {
		if completion.Name() != "completion" {
			continue
		}
		completion.AddCommand(&cobra.Command{
			Use:   "kubectl",
			Short: "Print the program by which kubectl completes kubectl berth",
			Long: `Print the program by which kubectl completes kubectl berth. Put it into your PATH by the
name kubectl_complete-berth, beside kubectl-berth; your shell must complete kubectl.`,
			Example: `  # Let kubectl complete kubectl berth
  kubectl berth completion kubectl > ~/.local/bin/kubectl_complete-berth
  chmod +x ~/.local/bin/kubectl_complete-berth`,
			Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				_, err := fmt.Fprint(c.Out, kubectlCompletion)
				return err
			},
		})
	}
}
