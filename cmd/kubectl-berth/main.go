// Command kubectl-berth is the plugin of kubectl for Berth: kubectl berth.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/berth-lb/berth/internal/version"
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

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, streams genericiooptions.IOStreams, args []string) int {
	root := command(streams)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return exitFine
	case errors.Is(err, errFinds):
		return exitFinds
	}
	fmt.Fprintln(streams.ErrOut, "error:", err)
	return exitFailed
}

// common is what every command has.
type common struct {
	genericiooptions.IOStreams
	config    *genericclioptions.ConfigFlags
	namespace string // Berth's
}

func command(streams genericiooptions.IOStreams) *cobra.Command {
	c := &common{IOStreams: streams, config: genericclioptions.NewConfigFlags(true)}
	root := &cobra.Command{
		Use:   "kubectl-berth",
		Short: "What Berth does in a cluster, why, and what a change would do",
		Long: `What Berth does in a cluster, why, and what a change would do.

Commands that only read need the right to read, and say what they could not read.
The exit code is 0 if all is well, 1 if a command found what it looks for (a
problem, a difference), and 2 if it could not look.`,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl berth"},
		Version:       version.Number(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	c.config.AddFlags(root.PersistentFlags())
	root.PersistentFlags().
		StringVar(&c.namespace, "berth-namespace", "berth-system", "namespace that Berth is installed in")
	root.AddCommand(
		whyCommand(c), lintCommand(c), doctorCommand(c),
		statusCommand(c), poolsCommand(c), servicesCommand(c), l2Command(c), bgpCommand(c),
		rebalanceCommand(c), drainCommand(c), releaseCommand(c), reserveCommand(c), rotateKeyCommand(c),
		versionCommand(c),
	)
	addKubectlCompletion(c, root)
	return root
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
