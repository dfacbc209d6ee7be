package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/kubectl/follow"
	"github.com/berth-lb/berth/kubectl/view"
)

func statusCommand(c *common) *cobra.Command {
	var out output
	var check, again bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Sum up what Berth does, and what is wrong",
		Example: `  # What is wrong?
  kubectl berth status

  # For a script: exit code 1 if anything is
  kubectl berth status --check

  # Again at each change
  kubectl berth status --watch`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			show := func() error {
				s, err := c.state(cmd.Context())
				if err != nil {
					return err
				}
				st := view.StatusOf(s)
				if err := out.print(c.Out, st, func(w io.Writer, _ bool) { printStatus(w, st) }); err != nil {
					return err
				}
				if check && len(st.Problems) > 0 {
					return errFinds
				}
				return nil
			}
			if !again {
				return show()
			}
			to, err := c.clients()
			if err != nil {
				return err
			}
			return follow.Changes(cmd.Context(), to, 500*time.Millisecond, func() error {
				fmt.Fprintf(c.Out, "--- %s\n", time.Now().Format(time.TimeOnly))
				return show()
			})
		},
	}
	out.register(cmd)
	cmd.Flags().BoolVar(&check, "check", false, "exit with code 1 if anything is wrong")
	cmd.Flags().BoolVar(&again, "watch", false, "print it again at each change")
	cmd.MarkFlagsMutuallyExclusive("check", "watch")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if again && c.from != "" {
			return errors.New("--watch: leave it out; nothing changes in a --bundle")
		}
		return nil
	}
	return cmd
}

func printStatus(w io.Writer, st view.Status) {
	for _, p := range st.Problems {
		fmt.Fprintf(w, "WRONG\t%s\n", p)
	}
	if len(st.Problems) == 0 {
		text := "Nothing is wrong."
		if len(st.Unknown) > 0 {
			text = "Nothing is wrong, as far as could be read."
		}
		fmt.Fprintln(w, text)
	}
	fmt.Fprintf(w, "\nControllers\t%s ready", st.Controllers)
	if st.Leader != "" {
		fmt.Fprintf(w, ", %s leads", st.Leader)
	}
	fmt.Fprintf(
		w,
		"\nSpeakers\t%s announce, version %s\n",
		st.Speakers,
		dash(strings.Join(st.Versions.Speakers, ", ")),
	)
	fmt.Fprintf(w, "Services\t%s announced\n", st.Services)
	fmt.Fprintf(w, "Sessions\t%s established\n", st.Sessions)
	for _, p := range st.Pools {
		fmt.Fprintf(w, "Pool %s\tIPv4: %s\tIPv6: %s\n", p.Name, p.IPv4, p.IPv6)
	}
	for _, s := range st.Segments {
		var each []string
		for _, node := range slices.Sorted(maps.Keys(s.Nodes)) {
			each = append(each, fmt.Sprintf("%s %d", node, s.Nodes[node]))
		}
		fmt.Fprintf(w, "Segment %s\taddresses: %s\n", s.Segment, strings.Join(each, ", "))
	}
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func poolsCommand(c *common) *cobra.Command {
	var out output
	var who string
	cmd := &cobra.Command{
		Use:   "pools [NAME...]",
		Short: "List pools and their use, or say who has an address",
		Example: `  # How full are the pools?
  kubectl berth pools

  # Who has this address?
  kubectl berth pools --who 192.0.2.10`,
		RunE: func(cmd *cobra.Command, names []string) error {
			var address netip.Addr
			if who != "" {
				var err error
				if address, err = netip.ParseAddr(who); err != nil {
					return fmt.Errorf("--who %s: is not an address; write one such as 192.0.2.1", who)
				}
			}
			s, err := c.state(cmd.Context())
			if err != nil {
				return err
			}
			if who != "" {
				h := view.WhoHas(s, address)
				return out.print(c.Out, h, func(w io.Writer, _ bool) {
					fmt.Fprintf(w, "%s: %s\n", h.Address, h.Text)
					if h.Pool != "" {
						fmt.Fprintf(w, "Pool\t%s\n", h.Pool)
					}
					for _, segment := range slices.Sorted(maps.Keys(h.Owners)) {
						fmt.Fprintf(w, "Segment %s\t%s answers\n", segment, h.Owners[segment])
					}
				})
			}
			pools := view.PoolsOf(s)
			if len(names) > 0 {
				pools = slices.DeleteFunc(pools, func(p view.Pool) bool { return !slices.Contains(names, p.Name) })
			}
			return out.print(c.Out, pools, func(w io.Writer, wide bool) {
				fmt.Fprintln(w, "NAME\tALLOCATION\tIPV4\tIPV6\tANNOUNCED BY\tPROBLEM")
				for _, p := range pools {
					fmt.Fprintf(
						w,
						"%s\t%s\t%s\t%s\t%s\t%s\n",
						p.Name,
						p.Allocation,
						p.IPv4,
						p.IPv6,
						dash(strings.Join(p.AnnouncedBy, ", ")),
						dash(p.Problem),
					)
					if wide {
						fmt.Fprintf(w, "  %s\n", strings.Join(p.Addresses, ", "))
					}
				}
			})
		},
		ValidArgsFunction: c.complete(pools),
	}
	out.register(cmd)
	cmd.Flags().StringVar(&who, "who", "", "address: say who has it, or why nobody does")
	return cmd
}

func servicesCommand(c *common) *cobra.Command {
	var out output
	var all, problems bool
	cmd := &cobra.Command{
		Use:   "services",
		Short: "List Services of type LoadBalancer: their addresses, who answers, and what is wrong",
		Example: `  # Those of this namespace
  kubectl berth services

  # Those of all namespaces that are not served as they ask; exit code 1 if there are any
  kubectl berth services --problems -A`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			namespace := ""
			if !all {
				var err error
				if namespace, err = c.currentNamespace(); err != nil {
					return err
				}
			}
			s, err := c.state(cmd.Context())
			if err != nil {
				return err
			}
			rows := view.ServicesOf(s, namespace)
			if problems {
				rows = slices.DeleteFunc(rows, func(r view.Service) bool { return r.Reason == "" })
			}
			err = out.print(c.Out, rows, func(w io.Writer, wide bool) {
				fmt.Fprintln(w, "NAMESPACE\tNAME\tADDRESSES\tPOOLS\tOWNERS\tSTATE")
				for _, r := range rows {
					state := r.Announced
					switch {
					case r.Reason != "" && (problems || wide):
						state = r.Reason + ": " + r.Message
					case r.Reason != "":
						state = r.Reason
					case r.Others:
						state = "another load balancer's"
					}
					fmt.Fprintf(
						w,
						"%s\t%s\t%s\t%s\t%s\t%s\n",
						r.Namespace,
						r.Name,
						dash(strings.Join(r.Addresses, ",")),
						dash(strings.Join(r.Pools, ",")),
						dash(strings.Join(r.Owners, ",")),
						state,
					)
				}
			})
			if err == nil && problems && len(rows) > 0 {
				return errFinds
			}
			return err
		},
	}
	out.register(cmd)
	cmd.Flags().BoolVarP(&all, "all-namespaces", "A", false, "of all namespaces")
	cmd.Flags().BoolVar(&problems, "problems", false, "only those with one, and exit code 1 if there are any")
	return cmd
}
