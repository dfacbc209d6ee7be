package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/internal/version"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "berth:", err)
		return 1
	}
	return 0
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "berth",
		Short:         "LoadBalancer Services for Kubernetes clusters without a cloud",
		Version:       version.Number(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(
		controllerCommand(), speakerCommand(), applyCommand(),
		traceCommand(), routeCommand(), probeCommand(), versionCommand(),
	)
	return root
}
