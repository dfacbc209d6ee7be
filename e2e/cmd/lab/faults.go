//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/e2e/lab"
)

// fault returns a command that makes one change to the lab and reports it.
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
	return fault(
		"start PROCESS|NODE",
		"Start again what was killed",
		1,
		func(ctx context.Context, l *lab.Lab, args []string) error {
			return l.Start(ctx, args[0])
		},
	)
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
		addressCommand(),
		proxyARPCommand(),
		fault(
			"unblock NODE PEER",
			"Let the frames between two hosts pass again",
			2,
			func(ctx context.Context, l *lab.Lab, args []string) error {
				return l.Unblock(ctx, args[0], args[1])
			},
		),
		fault(
			"flap NODE",
			"Set a host's interface down and up again",
			1,
			func(_ context.Context, l *lab.Lab, args []string) error {
				return l.Flap(args[0])
			},
		),
		fault(
			"mac NODE",
			"Give a host's interface a new hardware address",
			1,
			func(_ context.Context, l *lab.Lab, args []string) error {
				_, err := l.ChangeMAC(args[0])
				return err
			},
		),
		fault(
			"kill PROCESS|NODE",
			"End a process with SIGKILL, or a whole node",
			1,
			func(ctx context.Context, l *lab.Lab, args []string) error {
				return l.Kill(ctx, args[0])
			},
		),
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
	cmd := fault(
		"block NODE PEER",
		"Drop all frames between two hosts of the segment",
		2,
		func(ctx context.Context, l *lab.Lab, args []string) error {
			if oneWay {
				return l.BlockOneWay(ctx, args[0], args[1])
			}
			return l.Block(ctx, args[0], args[1])
		},
	)
	cmd.Flags().BoolVar(&oneWay, "one-way", false, "drop only those from NODE to PEER")
	return cmd
}

func addressCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "address", Short: "Add an address to a host of the segment, or remove it"}
	one := func(use, short string, do func(l *lab.Lab, host string, address netip.Addr) error) *cobra.Command {
		return fault(use+" HOST ADDRESS", short, 2, func(_ context.Context, l *lab.Lab, args []string) error {
			address, err := netip.ParseAddr(args[1])
			if err != nil {
				return fmt.Errorf("address %q: %w", args[1], err)
			}
			return do(l, args[0], address)
		})
	}
	cmd.AddCommand(
		one("add", "Give it the address, and tell nobody", (*lab.Lab).AddAddress),
		one("remove", "Take the address back", (*lab.Lab).RemoveAddress),
		one("announce", "Have it say that the address is its own: gratuitous ARP, or an unsolicited announcement", (*lab.Lab).AnnounceAddress),
	)
	return cmd
}

func proxyARPCommand() *cobra.Command {
	off := false
	cmd := fault(
		"proxy-arp PREFIX",
		"Have the router answer ARP for all addresses of a prefix",
		1,
		func(_ context.Context, l *lab.Lab, args []string) error {
			prefix, err := netip.ParsePrefix(args[0])
			if err != nil {
				return fmt.Errorf("prefix %q: %w", args[0], err)
			}
			if off {
				return l.StopProxyARP(prefix)
			}
			return l.StartProxyARP(prefix)
		},
	)
	cmd.Flags().BoolVar(&off, "off", false, "have it stop")
	return cmd
}
