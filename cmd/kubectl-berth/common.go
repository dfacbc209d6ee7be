package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/berth-lb/berth/kubectl/bundle"
	"github.com/berth-lb/berth/kubectl/cluster"
)

// Exit codes, which scripts may rely on.
const (
	exitFine   = 0
	exitFinds  = 1 // what was looked for is there: a problem, a difference
	exitFailed = 2 // it could not be looked, or the command is wrong
)

// errFinds ends a command with exitFinds. What was found is printed already.
var errFinds = errors.New("found")

// common is what every command has.
type common struct {
	genericiooptions.IOStreams
	config    *genericclioptions.ConfigFlags
	namespace string // Berth's
	// from is the flag --bundle: an archive to read instead of a cluster.
	from string
}

// reads adds the flag --bundle to a command that only reads, and to those below it.
func (c *common) reads(cmd *cobra.Command) *cobra.Command {
	cmd.PersistentFlags().
		StringVar(&c.from, "bundle", "", "archive of kubectl berth bundle to read instead of a cluster")
	return cmd
}

// archive reads the archive of the flag --bundle.
func (c *common) archive() (*bundle.Bundle, error) {
	f, err := os.Open(c.from)
	if err != nil {
		return nil, fmt.Errorf("--bundle: %w", err)
	}
	b, err := bundle.Read(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("--bundle %s: %w", c.from, err)
	}
	return b, nil
}

// clients return clients with the user's rights.
func (c *common) clients() (*cluster.Clients, error) {
	config, err := c.config.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	return cluster.NewClients(config)
}

// state reads the cluster or the archive, and says on ErrOut what the user may not read.
func (c *common) state(ctx context.Context) (*cluster.State, error) {
	s, err := c.read(ctx)
	if err != nil {
		return nil, err
	}
	for _, text := range s.Lacks() {
		fmt.Fprintln(c.ErrOut, "note:", text)
	}
	if s.Uninstalled {
		fmt.Fprintln(
			c.ErrOut,
			"note: the API server does not know Berth's kinds: Berth is not installed in this cluster",
		)
	}
	return s, nil
}

func (c *common) read(ctx context.Context) (*cluster.State, error) {
	if c.from != "" {
		b, err := c.archive()
		if err != nil {
			return nil, err
		}
		s, err := b.State()
		if err != nil {
			return nil, fmt.Errorf("--bundle %s: %w", c.from, err)
		}
		return s, nil
	}
	to, err := c.clients()
	if err != nil {
		return nil, err
	}
	return cluster.Read(ctx, to, c.namespace)
}

// currentNamespace returns the namespace of the flag --namespace, or of the kubeconfig's context.
func (c *common) currentNamespace() (string, error) {
	namespace, _, err := c.config.ToRawKubeConfigLoader().Namespace()
	return namespace, err
}

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
