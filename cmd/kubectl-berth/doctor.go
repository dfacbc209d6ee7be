package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/kubectl/doctor"
)

func doctorCommand(c *common) *cobra.Command {
	var out output
	var ranges []string
	var file string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what keeps Berth from working, before an install and after",
		Long: `Look for what keeps Berth from working, before an install and after.

It reads the cluster: other load balancers, kube-proxy, ports, labels, admission,
addresses of pools that somebody has, and, once Berth is installed, all its parts.
Each finding has an ID, which docs/reference/doctor.md explains. The exit code is 1
if there is one.`,
		Example: `  # Before an install: is the cluster fit, and are these addresses free?
  kubectl berth doctor --pool 192.0.2.100-192.0.2.150

  # The same for pools in a file
  kubectl berth doctor -f pools.yaml

  # After an install: is all well?
  kubectl berth doctor`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			proposed, err := c.proposal(ranges, file)
			if err != nil {
				return err
			}
			report, err := c.examine(cmd.Context(), proposed)
			if err != nil {
				return err
			}
			if err := out.print(c.Out, report, func(w io.Writer, wide bool) { printReport(w, report, wide) }); err != nil {
				return err
			}
			if len(report.Findings) > 0 {
				return errFinds
			}
			return nil
		},
	}
	out.register(cmd)
	cmd.Flags().
		StringArrayVar(&ranges, "pool", nil, "addresses of a pool that is to be, such as 192.0.2.0/28 or 192.0.2.1-192.0.2.9; may be repeated")
	cmd.Flags().
		StringVarP(&file, "filename", "f", "", "file with LoadBalancerPools that are to be; - is standard input")
	cmd.MarkFlagsMutuallyExclusive("pool", "filename")
	return cmd
}

// proposal returns the pools that are to be, nil if none are named.
func (c *common) proposal(ranges []string, file string) (*doctor.Proposal, error) {
	switch {
	case len(ranges) > 0:
		return doctor.ProposeRanges(ranges), nil
	case file == "":
		return nil, nil
	case file == "-":
		return doctor.ProposeYAML(c.In)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	p, err := doctor.ProposeYAML(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}

func (c *common) examine(ctx context.Context, proposed *doctor.Proposal) (doctor.Report, error) {
	s, err := c.read(ctx)
	if err != nil {
		return doctor.Report{}, err
	}
	extras, err := c.extras(ctx)
	if err != nil {
		return doctor.Report{}, err
	}
	return doctor.Look(s, extras, proposed), nil
}

// extras reads what only the doctor needs.
func (c *common) extras(ctx context.Context) (*doctor.Extras, error) {
	if c.from != "" {
		b, err := c.archive()
		if err != nil {
			return nil, err
		}
		return b.Extras()
	}
	to, err := c.clients()
	if err != nil {
		return nil, err
	}
	return doctor.Read(ctx, to, c.namespace)
}

func printReport(w io.Writer, r doctor.Report, wide bool) {
	for _, f := range r.Findings {
		object := ""
		if f.Object != "" {
			object = f.Object + ": "
		}
		fmt.Fprintf(w, "%s %s: %s%s\n  remedy: %s\n", f.Severity, f.ID, object, f.What, f.Remedy)
		if wide {
			fmt.Fprintf(w, "  more: %s\n", f.Docs)
		}
	}
	if len(r.Findings) == 0 {
		fmt.Fprintln(w, "Nothing is wrong.")
	}
	for _, text := range r.Facts {
		fmt.Fprintln(w, "seen:", text)
	}
	for _, text := range r.Unknown {
		fmt.Fprintln(w, "not known:", text)
	}
}
