//go:build linux

package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/e2e/lab"
)

// nameFlag adds the flag that chooses among labs.
func nameFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("name", "lab", "name of the lab, when several run side by side")
}

func upCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring the lab up",
		Args:  cobra.NoArgs,
	}
	name := nameFlag(cmd)
	var opts lab.Options
	cmd.Flags().IntVar(&opts.Nodes, "nodes", 3, "number of nodes")
	cmd.Flags().StringVar(&opts.Router, "router", "frr", "top-of-rack router: frr (speaks BGP) or none (forwards only)")
	cmd.Flags().BoolVar(&opts.DualStack, "dual-stack", false, "IPv6 beside IPv4")
	cmd.Flags().BoolVar(&opts.DNS, "dns", false, "CoreDNS in the cluster, which `lab build --dns` built")
	cmd.Flags().StringVar(&opts.ProxyMode, "proxy-mode", "nftables", "kube-proxy's mode: nftables or iptables")
	cmd.Flags().StringVar(&opts.Kubernetes, "kubernetes", "", "version of Kubernetes that `lab build --kubernetes` built, such as v1.34.4; the lab's own if empty")
	cmd.Flags().BoolVar(&opts.Keep, "keep", false, "when coming up fails, leave everything for a look at it")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		opts.Name, opts.Log = *name, cmd.OutOrStdout()
		begun := time.Now()
		l, err := lab.Up(cmd.Context(), opts)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%5.1f s  ", time.Since(begun).Seconds())
		fmt.Fprint(cmd.OutOrStdout(), l.Summary())
		return nil
	}
	return cmd
}

func downCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Take the lab down, or what is left of it",
		Args:  cobra.NoArgs,
	}
	name := nameFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		begun := time.Now()
		there, err := lab.Clear(cmd.Context(), *name)
		if err != nil {
			return err
		}
		if !there {
			fmt.Fprintf(cmd.OutOrStdout(), "lab %q is not there\n", *name)
			return nil
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%5.1f s  lab %q is down\n", time.Since(begun).Seconds(), *name)
		return nil
	}
	return cmd
}

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show hosts and processes",
		Args:  cobra.NoArgs,
	}
	name := nameFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := lab.Open(*name)
		if err != nil {
			return err
		}
		status, err := l.Status(cmd.Context())
		if err != nil {
			return err
		}
		table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
		fmt.Fprintln(table, "HOST\tSTATE\tADDRESSES")
		for _, h := range status.Hosts {
			fmt.Fprintf(table, "%s\t%s\t%s\n", h.Name, strings.Join(h.State, ","), strings.Trim(fmt.Sprint(h.Addresses), "[]"))
		}
		fmt.Fprintln(table, "\nPROCESS\tSTATE\tPID\tPOD")
		for _, p := range status.Processes {
			fmt.Fprintf(table, "%s\t%s\t%d\t%s\n", p.Name, p.State, p.PID, p.Pod)
		}
		return table.Flush()
	}
	return cmd
}
