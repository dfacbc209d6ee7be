//go:build linux

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/e2e/lab"
)

// fault makes a command that does one thing to the lab and says so.
func fault(use, short string, args int, do func(ctx context.Context, l *lab.Lab, args []string) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(args)}
	name := nameFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		l, err := lab.Open(*name)
		if err != nil {
			return err
		}
		if err := do(cmd.Context(), l, args); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "done: %s %s\n", cmd.Name(), strings.Join(args, " "))
		return nil
	}
	return cmd
}

func startCommand() *cobra.Command {
	return fault("start PROCESS|NODE", "Start again what was killed", 1, func(ctx context.Context, l *lab.Lab, args []string) error {
		return l.Start(ctx, args[0])
	})
}

func faultCommands() []*cobra.Command {
	return []*cobra.Command{
		fault("cut NODE", "Pull a host's cable", 1, func(_ context.Context, l *lab.Lab, args []string) error {
			return l.Cut(args[0])
		}),
		fault("heal NODE", "Plug a host's cable in again", 1, func(_ context.Context, l *lab.Lab, args []string) error {
			return l.Heal(args[0])
		}),
		blockCommand(),
		fault("unblock NODE PEER", "Let the frames between two hosts pass again", 2, func(ctx context.Context, l *lab.Lab, args []string) error {
			return l.Unblock(ctx, args[0], args[1])
		}),
		fault("flap NODE", "Set a host's interface down and up again", 1, func(_ context.Context, l *lab.Lab, args []string) error {
			return l.Flap(args[0])
		}),
		fault("mac NODE", "Give a host's interface a new hardware address", 1, func(_ context.Context, l *lab.Lab, args []string) error {
			_, err := l.ChangeMAC(args[0])
			return err
		}),
		fault("kill PROCESS|NODE", "End a process with SIGKILL, or a whole node", 1, func(ctx context.Context, l *lab.Lab, args []string) error {
			return l.Kill(ctx, args[0])
		}),
		fault("pause PROCESS", "Stop a process with SIGSTOP", 1, func(ctx context.Context, l *lab.Lab, args []string) error {
			return l.Pause(ctx, args[0])
		}),
		fault("resume PROCESS", "Continue a paused process", 1, func(ctx context.Context, l *lab.Lab, args []string) error {
			return l.Resume(ctx, args[0])
		}),
	}
}

func blockCommand() *cobra.Command {
	oneWay := false
	cmd := fault("block NODE PEER", "Drop all frames between two hosts of the segment", 2, func(ctx context.Context, l *lab.Lab, args []string) error {
		if oneWay {
			return l.BlockOneWay(ctx, args[0], args[1])
		}
		return l.Block(ctx, args[0], args[1])
	})
	cmd.Flags().BoolVar(&oneWay, "one-way", false, "drop only those from NODE to PEER")
	return cmd
}
