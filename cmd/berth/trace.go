package main

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/internal/trace"
)

// traceCommand is what kubectl berth trace runs in a speaker's pod.
func traceCommand() *cobra.Command {
	var addresses []string
	var folder string
	var q trace.Query
	c := &cobra.Command{
		Use:   "trace",
		Short: "Print what the processes of this speaker's pod did last, as JSON: kubectl berth trace runs it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			for _, text := range addresses {
				a, err := netip.ParseAddr(text)
				if err != nil {
					return fmt.Errorf("--address: %w", err)
				}
				q.Addresses = append(q.Addresses, a)
			}
			all, err := trace.Ask(c.Context(), folder, q)
			out := json.NewEncoder(c.OutOrStdout())
			for _, e := range all {
				if err := out.Encode(e); err != nil {
					return err
				}
			}
			return err
		},
	}
	c.Flags().StringSliceVar(&addresses, "address", nil, "only what is about these addresses, and what is about none")
	c.Flags().StringVar(&folder, "folder", "/run/berth", "where the processes have their sockets")
	c.Flags().IntVar(&q.Last, "last", 0, "how many questions, and how many events, of each process; 0: all that it remembers")
	return c
}
