package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/kubectl/forecast"
	"github.com/berth-lb/berth/kubectl/lint"
)

func diffCommand(c *common) *cobra.Command {
	var out output
	var files []string
	var deletes bool
	cmd := &cobra.Command{
		Use:   "diff -f FILE",
		Short: "What a change would do, before it is applied",
		Long: `What a change would do, before it is applied: which Services lose, get or change
addresses, who answers for them, which routes come and go, which sessions are reset.

The files are merged with the cluster's objects as kubectl apply merges them; then the
controller's compiler and allocator and the speakers' plans run here, over what the
cluster has now. Nothing is written, and reading is all it needs. It says how things
stand in the end, if nothing else changes. Who announces a new Service of
policy Local depends on where its Pods will be, which nobody knows yet. What flags of
Berth's programs and Speakers do is not foreseen, nor interfaces and addresses of nodes
that no speaker reports yet. Whether a Secret has another password than now is known to
those who may get it.

The exit code is 0 if nothing changes, 1 if something does or an object would be
refused, 2 if it could not look.`,
		Example: `  # Before a pool is narrowed
  kubectl berth diff -f pool.yaml

  # What would go with this neighbor?
  kubectl berth diff --delete -f neighbor.yaml

  # In a pipeline
  kustomize build . | kubectl berth diff -f - -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return errors.New("--filename: is missing; name a file or folder, or - for the standard input")
			}
			read, err := readFiles(c.In, files)
			if err != nil {
				return err
			}
			objects, findings := lint.Parse(read)
			if len(findings) > 0 {
				return fmt.Errorf("%s:%d: %s", findings[0].File, findings[0].Line, findings[0].Message)
			}
			schemas, err := lint.NewSchemas()
			if err != nil {
				return err
			}
			namespace, err := c.currentNamespace()
			if err != nil {
				return err
			}
			state, err := c.state(cmd.Context())
			if err != nil {
				return err
			}
			if lack := forecast.Lack(state); len(lack) > 0 {
				return fmt.Errorf(
					"nothing can be foreseen without %s (ClusterRole berth-view has these rights)",
					lack,
				)
			}
			objects = forecast.In(namespace, objects)
			if secrets := forecast.Secrets(state, objects); len(secrets) > 0 && c.from == "" {
				to, err := c.clients()
				if err != nil {
					return err
				}
				state.ReadPasswords(cmd.Context(), to, secrets)
			}
			report := forecast.Files(cmd.Context(), state, schemas, objects, deletes)
			if err := out.print(c.Out, report, func(w io.Writer, _ bool) { writeReport(w, report) }); err != nil {
				return err
			}
			if report.Empty() {
				return nil
			}
			return errFinds
		},
	}
	out.register(cmd)
	cmd.Flags().
		StringSliceVarP(&files, "filename", "f", nil, "files, or folders with YAML and JSON; - for the standard input")
	cmd.Flags().BoolVar(&deletes, "delete", false, "what it would do to delete the objects")
	return cmd
}

// writeReport writes a Report as sections, and a sentence at the end.
func writeReport(w io.Writer, r forecast.Report) {
	title := func(text string, rows int) {
		if rows > 0 {
			fmt.Fprintln(w, text)
		}
	}
	title("OBJECTS", len(r.Objects))
	for _, o := range r.Objects {
		fmt.Fprintf(w, "  %s %s\t%s\t%s\n", o.Kind, o.Name, o.Change, strings.Join(o.Fields, ", "))
		for _, text := range o.Messages {
			fmt.Fprintf(w, "    %s\n", text)
		}
	}
	title("ADDRESSES", len(r.Addresses))
	for _, a := range r.Addresses {
		text := a.Message
		if a.Later {
			text += " (once it has rested)"
		}
		from := joined(a.Before) + " -> "
		if slices.Equal(a.Before, a.After) {
			from = "" // its condition changes
		}
		fmt.Fprintf(w, "  %s\t%s%s\t%s\n", a.Service, from, joined(a.After), text)
	}
	title("RESERVATIONS", len(r.Reservations))
	for _, x := range r.Reservations {
		from := joined(x.Before) + " -> "
		if slices.Equal(x.Before, x.After) {
			from = ""
		}
		fmt.Fprintf(w, "  %s\t%s%s\t%s\n", x.Name, from, joined(x.After), x.Message)
	}
	title("ANSWERED BY", len(r.Owners))
	for _, o := range r.Owners {
		fmt.Fprintf(w, "  %s on %s\t%s -> %s\n", o.Address, o.Segment, dash(o.Before), dash(o.After))
	}
	title("ROUTES", len(r.Routes))
	for _, x := range r.Routes {
		fmt.Fprintf(
			w,
			"  %s\t%s to %s\t%s\t%s\n",
			x.Prefix,
			x.Node,
			x.Neighbor,
			verbOf[x.Change].route,
			strings.Join(x.Attributes, ", "),
		)
	}
	title("SESSIONS", len(r.Sessions))
	for _, s := range r.Sessions {
		fmt.Fprintf(w, "  %s with %s\t%s\n", s.Node, s.Neighbor, verbOf[s.Change].session)
	}
	fmt.Fprintln(w, r.Summary())
}

// verbOf says in a word what becomes of a route and of a session.
var verbOf = map[forecast.Change]struct{ route, session string }{
	forecast.Created: {"announced", "starts"},
	forecast.Deleted: {"withdrawn", "ends"},
	forecast.Changed: {"changed", "is reset"},
}

func joined(texts []string) string { return dash(strings.Join(texts, ", ")) }
