//go:build linux

// Command lab brings up a real Kubernetes cluster with a rack's network around it on one Linux
// machine, breaks it on request, and takes it down again. See e2e/README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := root().ExecuteContext(ctx)
	interrupted := ctx.Err() != nil
	stop()
	var status exitStatus
	switch {
	case err == nil:
	case errors.As(err, &status):
		os.Exit(int(status))
	case interrupted && errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "lab: interrupted")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

// exitStatus is the exit status of a program that ran in the lab.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:           "lab",
		Short:         "A Kubernetes cluster in a box, with a router and clients",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.AddCommand(fetchCommand(), buildCommand(), upCommand(), downCommand(), statusCommand(),
		kubectlCommand(), execCommand(), loadImageCommand(), startCommand())
	cmd.AddCommand(faultCommands()...)
	cmd.AddCommand(hostBootCommand(), hostServeCommand(), hostEnterCommand())
	return cmd
}
