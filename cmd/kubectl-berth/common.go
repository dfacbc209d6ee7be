package main

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

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
}

// clients return clients with the user's rights.
func (c *common) clients() (*cluster.Clients, error) {
	config, err := c.config.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	return cluster.NewClients(config)
}

// state reads the cluster, and says on ErrOut what the user may not read.
func (c *common) state(ctx context.Context) (*cluster.State, error) {
	to, err := c.clients()
	if err != nil {
		return nil, err
	}
	s, err := cluster.Read(ctx, to, c.namespace)
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

// currentNamespace returns the namespace of the flag --namespace, or of the kubeconfig's context.
func (c *common) currentNamespace() (string, error) {
	namespace, _, err := c.config.ToRawKubeConfigLoader().Namespace()
	return namespace, err
}
