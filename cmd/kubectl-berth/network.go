package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/view"
)

func l2Command(c *common) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "l2",
		Short: "Show who answers for addresses on segments, and what speakers see there",
	}
	var out output
	var node, address, segment string
	owners := &cobra.Command{
		Use:   "owners",
		Short: "List which node answers for each address on each segment",
		Example: `  # Who answers for what?
  kubectl berth l2 owners

  # For what does this node answer?
  kubectl berth l2 owners --node n1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.state(cmd.Context())
			if err != nil {
				return err
			}
			rows := view.OwnersOf(s, node, address, segment)
			return out.print(c.Out, rows, func(w io.Writer, wide bool) {
				fmt.Fprint(w, "ADDRESS\tSEGMENT\tNODE\tINTERFACE\tMAC\tSINCE\tSERVICES")
				if wide {
					fmt.Fprint(w, "\tREASON\tPROBLEM")
				}
				fmt.Fprintln(w)
				for _, r := range rows {
					fmt.Fprintf(
						w,
						"%s\t%s\t%s\t%s\t%s\t%s\t%s",
						r.Address,
						r.Segment,
						r.Node,
						r.Interface,
						r.MAC,
						since(s, r.Since),
						dash(strings.Join(r.Services, ",")),
					)
					if wide {
						fmt.Fprintf(w, "\t%s\t%s", dash(r.Reason), dash(r.Problem))
					}
					fmt.Fprintln(w)
				}
			})
		},
	}
	out.register(owners)
	owners.Flags().StringVar(&node, "node", "", "only this node's")
	owners.Flags().StringVar(&address, "address", "", "only this address")
	owners.Flags().StringVar(&segment, "segment", "", "only on this segment, such as 192.0.2.0/24")

	var outSegments output
	var of string
	segments := &cobra.Command{
		Use:   "segments",
		Short: "List what each speaker sees of its segments",
		Example: `  # Does each speaker hear the others?
  kubectl berth l2 segments`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.state(cmd.Context())
			if err != nil {
				return err
			}
			rows := view.SegmentsOf(s, of)
			return outSegments.print(c.Out, rows, func(w io.Writer, wide bool) {
				fmt.Fprint(w, "NODE\tINTERFACE\tSTATE\tPEERS\tADDRESSES\tSUBNETS\tPROBLEM")
				if wide {
					fmt.Fprint(w, "\tMAC\tRETURN PATH")
				}
				fmt.Fprintln(w)
				for _, r := range rows {
					fmt.Fprintf(
						w,
						"%s\t%s\t%s\t%d\t%d\t%s\t%s",
						r.Node,
						r.Interface,
						r.State,
						r.Peers,
						r.Owned,
						dash(strings.Join(r.Subnets, ",")),
						dash(r.Problem),
					)
					if wide {
						fmt.Fprintf(w, "\t%s\t%s", dash(r.MAC), dash(r.ReturnPath))
					}
					fmt.Fprintln(w)
				}
			})
		},
	}
	outSegments.register(segments)
	segments.Flags().StringVar(&of, "node", "", "only this node's")
	cmd.AddCommand(owners, segments)
	return cmd
}

func bgpCommand(c *common) *cobra.Command {
	cmd := &cobra.Command{Use: "bgp", Short: "Show sessions with routers, and routes"}
	var out output
	var node, neighbor string
	sessions := &cobra.Command{
		Use:   "sessions",
		Short: "List the sessions of each node, with their last errors",
		Example: `  # Which sessions are down, and why?
  kubectl berth bgp sessions

  # Those with one router
  kubectl berth bgp sessions --neighbor tor`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.state(cmd.Context())
			if err != nil {
				return err
			}
			rows := view.SessionsOf(s, node, neighbor)
			return out.print(c.Out, rows, func(w io.Writer, wide bool) {
				fmt.Fprint(w, "NEIGHBOR\tNODE\tADDRESS\tSTATE\tSINCE\tPREFIXES\tLAST ERROR")
				if wide {
					fmt.Fprint(w, "\tFAMILIES\tBFD")
				}
				fmt.Fprintln(w)
				for _, r := range rows {
					fmt.Fprintf(
						w,
						"%s\t%s\t%s\t%s\t%s\t%d\t%s",
						r.Neighbor,
						r.Node,
						dash(r.Address),
						r.State,
						since(s, r.Since),
						r.Prefixes,
						dash(r.LastError),
					)
					if wide {
						fmt.Fprintf(w, "\t%s\t%s", dash(strings.Join(r.Families, ",")), dash(r.BFD))
					}
					fmt.Fprintln(w)
				}
			})
		},
	}
	out.register(sessions)
	sessions.Flags().StringVar(&node, "node", "", "only this node's")
	sessions.Flags().StringVar(&neighbor, "neighbor", "", "only those with this BGPNeighbor")
	cmd.AddCommand(sessions, routesCommand(c))
	return cmd
}

// since is an age as kubectl writes it.
func since(s *cluster.State, at *time.Time) string {
	if at == nil {
		return "-"
	}
	return duration.HumanDuration(max(0, s.Taken.Sub(*at)))
}
