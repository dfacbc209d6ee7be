package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/printers"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/internal/version"
)

// output is the flag -o.
type output struct{ format string }

func (o *output) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "table", "format: table, wide, json or yaml")
	_ = cmd.RegisterFlagCompletionFunc(
		"output",
		cobra.FixedCompletions([]string{"table", "wide", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp),
	)
	inner := cmd.Args
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := o.check(); err != nil {
			return err
		}
		if inner == nil {
			return nil
		}
		return inner(cmd, args)
	}
}

func (o *output) check() error {
	switch o.format {
	case "table", "wide", "json", "yaml":
		return nil
	}
	return fmt.Errorf("--output %s: is not a format; write table, wide, json or yaml", o.format)
}

// print writes what a command found: as JSON or YAML whole, else by table, which gets a writer that
// aligns columns at tabs.
func (o *output) print(w io.Writer, found any, table func(w io.Writer, wide bool)) error {
	switch o.format {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(found)
	case "yaml":
		text, err := yaml.Marshal(found)
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	}
	aligned := printers.GetNewTabWriter(harmless{w})
	table(aligned, o.format == "wide")
	return aligned.Flush()
}

// printable is a text without what a terminal would obey: anybody may write an event.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, text)
}

// harmless writes lines and tables without what a terminal would obey.
type harmless struct{ io.Writer }

func (h harmless) Write(text []byte) (int, error) {
	clean := bytes.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return '?'
		}
		return r
	}, text)
	if _, err := h.Writer.Write(clean); err != nil {
		return 0, err
	}
	return len(text), nil
}

func versionCommand(c *common) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the plugin's version, and what it was built from",
		Example: `  # Which plugin is this?
  kubectl berth version`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			info := version.Get()
			return out.print(c.Out, info, func(w io.Writer, _ bool) {
				fmt.Fprintf(
					w,
					"kubectl-berth %s, commit %s, %s %s\n",
					info.Version,
					info.Commit,
					info.GoVersion,
					info.Platform,
				)
			})
		},
	}
	out.register(cmd)
	return cmd
}
