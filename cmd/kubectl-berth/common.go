package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/metadata"

	"github.com/berth-lb/berth/config/v1alpha1"
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

// named are objects whose names complete an argument. namespaced: those of the current namespace.
type named struct {
	schema.GroupVersionResource
	fields     string // which of them, as a selector; empty: all
	namespaced bool
}

var (
	nodes         = named{GroupVersionResource: corev1.SchemeGroupVersion.WithResource("nodes")}
	pools         = named{GroupVersionResource: v1alpha1.GroupVersion.WithResource("loadbalancerpools")}
	announcements = named{GroupVersionResource: v1alpha1.GroupVersion.WithResource("segmentannouncements")}
	neighbors     = named{GroupVersionResource: v1alpha1.GroupVersion.WithResource("bgpneighbors")}
	balanced      = named{
		GroupVersionResource: corev1.SchemeGroupVersion.WithResource("services"),
		fields:               "spec.type=LoadBalancer", namespaced: true,
	}
)

// completeWithin bounds how long a shell waits for completions.
const completeWithin = 2 * time.Second

// complete returns a completion of arguments by names from the cluster, each once. Only these
// objects are listed, and of them only what has the names.
func (c *common) complete(what named) cobra.CompletionFunc {
	return func(cmd *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
		if cmd.ValidateArgs(append(given, "x")) != nil { // it takes no more arguments
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
		defer cancel()
		found, err := c.names(ctx, what)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return found, cobra.ShellCompDirectiveNoFileComp
	}
}

func (c *common) names(ctx context.Context, what named) (names []string, err error) {
	config, err := c.config.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	to, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	var lister metadata.ResourceInterface = to.Resource(what.GroupVersionResource)
	if what.namespaced {
		namespace, err := c.currentNamespace()
		if err != nil {
			return nil, err
		}
		lister = to.Resource(what.GroupVersionResource).Namespace(namespace)
	}
	list, err := lister.List(ctx, metav1.ListOptions{FieldSelector: what.fields})
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
