package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/internal/probe"
	"github.com/berth-lb/berth/internal/probe/measure"
)

// probeCommand is what the pods of kubectl berth doctor --nodes run.
func probeCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "probe REQUEST",
		Short:  "Print what is seen of the network from this node, as JSON: kubectl berth doctor --nodes runs it",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			var asked probe.Request
			if err := json.Unmarshal([]byte(args[0]), &asked); err != nil {
				return fmt.Errorf("the request: %w", err)
			}
			return measure.Run(c.Context(), asked, c.OutOrStdout())
		},
	}
}
