package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/router"
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
			if node == "" && len(s.Lack(cluster.Owners, cluster.Speakers)) == 0 {
				for _, o := range view.Ownerless(s) {
					if (address == "" || o.Address == address) && (segment == "" || o.Segment == segment) {
						rows = append(rows, o)
					}
				}
			}
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
						cmp.Or(r.Node, "nobody"),
						dash(r.Interface),
						dash(r.MAC),
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

func routesCommand(c *common) *cobra.Command {
	var out output
	var node, neighbor, file string
	cmd := &cobra.Command{
		Use:   "routes",
		Short: "List what each node is to announce, or compare it with a router's table",
		Long: `List what each node is to announce to each neighbor, by the speakers' own plan, or
compare it with the table of the router. The table is what one of these prints:
vtysh -c 'show bgp ipv4 unicast json' (also ipv6, one after the other, and without
json), birdc show route (also with all), gobgp global rib -j.

With --from-router the exit code is 1 if something is missing, is not wanted, or has
another next hop, MED, local preference, length of the AS path or communities, as far as
the table has them: JSON has all but communities, which 'show bgp ipv4 unicast json
detail' and BIRD's all have.`,
		Example: `  # What is announced to whom?
  kubectl berth bgp routes

  # Does the router have it?
  ssh tor "vtysh -c 'show bgp ipv4 unicast json'" | kubectl berth bgp routes --neighbor tor --from-router -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var table router.Table
			if file != "" {
				if node != "" {
					return errors.New(
						"--node and --from-router: leave out --node; the table of a router is of all nodes",
					)
				}
				text, err := c.readFile(file)
				if err != nil {
					return err
				}
				if table, err = router.Parse(text); err != nil {
					return fmt.Errorf("--from-router %s: %w", file, err)
				}
			}
			s, err := c.state(cmd.Context())
			if err != nil {
				return err
			}
			lack := s.Lack(
				cluster.Services,
				cluster.Nodes,
				cluster.Pools,
				cluster.RouteAnnouncements,
				cluster.BGPNeighbors,
				cluster.Speakers,
			)
			if len(lack) > 0 {
				return fmt.Errorf("what is to be announced is not known without the right to list %s", lack[0])
			}
			var known []string
			for _, n := range s.BGPNeighbors {
				known = append(known, n.Name)
			}
			if neighbor != "" && !slices.Contains(known, neighbor) {
				return fmt.Errorf(
					"--neighbor %s: there is no such BGPNeighbor; there is %s",
					neighbor,
					dash(strings.Join(known, ", ")),
				)
			}
			if table == nil {
				return printRoutes(c.Out, &out, view.RoutesOf(s, node, neighbor))
			}
			if neighbor == "" {
				if len(known) != 1 {
					return fmt.Errorf(
						"--from-router: name the BGPNeighbor whose router it is with --neighbor; there is %s",
						dash(strings.Join(known, ", ")),
					)
				}
				neighbor = known[0]
			}
			found := view.Compare(s, neighbor, table)
			err = out.print(c.Out, found, func(w io.Writer, _ bool) {
				for _, d := range found.Differences {
					fmt.Fprintf(w, "%s\t%s\n", d.Kind, d.Text)
				}
				if len(found.Differences) == 0 {
					fmt.Fprintf(
						w,
						"The router of BGPNeighbor %s has each of %d routes, and no other of a pool.\n",
						found.Neighbor,
						found.Wanted,
					)
				}
				if found.Skipped != "" {
					fmt.Fprintf(w, "note\t%s\n", found.Skipped)
				}
			})
			if err == nil && len(found.Differences) > 0 {
				return errFinds
			}
			return err
		},
	}
	out.register(cmd)
	cmd.Flags().StringVar(&node, "node", "", "only this node's")
	cmd.Flags().StringVar(&neighbor, "neighbor", "", "only those to this BGPNeighbor")
	cmd.Flags().StringVar(&file, "from-router", "", "file with the router's table; - is the standard input")
	_ = cmd.RegisterFlagCompletionFunc("node", c.complete(nodes))
	_ = cmd.RegisterFlagCompletionFunc("neighbor", c.complete(neighbors))
	return cmd
}

func printRoutes(to io.Writer, out *output, rows []view.Route) error {
	return out.print(to, rows, func(w io.Writer, wide bool) {
		fmt.Fprint(w, "PREFIX\tNEIGHBOR\tNODE\tNEXT HOP\tPROBLEM")
		if wide {
			fmt.Fprint(w, "\tATTRIBUTES\tSERVICES")
		}
		fmt.Fprintln(w)
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s", r.Prefix, r.Neighbor, r.Node, dash(r.NextHop), dash(r.Obstacle))
			if wide {
				fmt.Fprintf(w, "\t%s\t%s", dash(attributesOf(r)), dash(strings.Join(r.Services, ",")))
			}
			fmt.Fprintln(w)
		}
	})
}

func attributesOf(r view.Route) string {
	var all []string
	if r.LocalPref != nil {
		all = append(all, fmt.Sprintf("localPref %d", *r.LocalPref))
	}
	if r.MED != nil {
		all = append(all, fmt.Sprintf("MED %d", *r.MED))
	}
	if r.Prepend > 0 {
		all = append(all, fmt.Sprintf("prepend %d", r.Prepend))
	}
	if r.Weight > 0 {
		all = append(all, fmt.Sprintf("weight %d", r.Weight))
	}
	if len(r.Communities) > 0 {
		all = append(all, "communities "+strings.Join(r.Communities, " "))
	}
	return strings.Join(all, ", ")
}

// mostTable is more than the table of a router has that is compared.
const mostTable = 256 << 20

// readFile reads a file; - is the standard input.
func (c *common) readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(c.In, mostTable))
	}
	return os.ReadFile(name)
}
