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
)

func main() {
	ctx, stop := interruptible()
	code := run(ctx, genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}, os.Args[1:])
	stop()
	os.Exit(code)
}

// interruptible returns a context that ends when the plugin is to end, so that what it made in the
// cluster is deleted.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), interrupts()...)
}

// interrupts returns the signals that end the plugin: SIGHUP, of a terminal that closes, is not
// among them under nohup.
func interrupts() []os.Signal {
	all := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		all = append(all, syscall.SIGHUP)
	}
	return all
}

func run(ctx context.Context, streams genericiooptions.IOStreams, args []string) int {
	streams.ErrOut = harmless{streams.ErrOut}
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
		c.reads(whyCommand(c)), c.reads(statusCommand(c)), c.reads(poolsCommand(c)),
		c.reads(servicesCommand(c)), c.reads(l2Command(c)), c.reads(bgpCommand(c)), uiCommand(c),
		topCommand(c), traceCommand(c), lintCommand(c), diffCommand(c), c.reads(doctorCommand(c)),
		bundleCommand(c), migrateCommand(c), rebalanceCommand(c), drainCommand(c),
		releaseCommand(c), reserveCommand(c), rotateKeyCommand(c), versionCommand(c),
	)
	addKubectlCompletion(c, root)
	return root
}
