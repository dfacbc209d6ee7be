package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/internal/version"
)

func versionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version, and what it was built from",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printVersion(cmd.OutOrStdout(), output, version.Get())
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "format: text or json")
	return cmd
}

func printVersion(w io.Writer, format string, info version.Info) error {
	switch format {
	case "text":
		_, err := fmt.Fprintf(w, "berth %s, commit %s, %s %s\n", info.Version, info.Commit, info.GoVersion, info.Platform)
		return err
	case "json":
		return json.NewEncoder(w).Encode(info)
	}
	return fmt.Errorf("--output %s: is not a format; write text or json", format)
}

// buildInfo returns the metric that says which Berth this is.
func buildInfo(info version.Info) prometheus.Collector {
	gauge := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "berth_build_info",
		Help: "1, with the program's version and what it was built from as labels.",
	}, []string{"version", "commit", "goversion"})
	gauge.WithLabelValues(info.Version, info.Commit, info.GoVersion).Set(1)
	return gauge
}
