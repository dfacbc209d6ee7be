package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
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
	cmd.PersistentFlags().StringVar(&c.from, "bundle", "", "archive of kubectl berth bundle to read instead of a cluster")
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
