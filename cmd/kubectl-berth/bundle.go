package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/kubectl/bundle"
	"github.com/berth-lb/berth/kubectl/doctor"
	"github.com/berth-lb/berth/kubectl/view"
	"github.com/berth-lb/berth/kubectl/why"
)

// usualSince is how old log lines are that a bundle has.
const usualSince = 24 * time.Hour

func bundleCommand(c *common) *cobra.Command {
	var out output
	var file string
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "bundle",
		Short: "Save what the cluster has to say about Berth, to ask somebody for help",
		Long: `Save what the cluster has to say about Berth, to ask somebody for help.

The archive has Berth's objects, and the Services, nodes and workloads that it looks
at; logs, events and metrics of Berth's Pods; and what status, doctor and why say. No
Secret is read. What looks like a password, a token or a key is replaced by REDACTED.
errors.txt says what could not be had. Other commands read it by --bundle.

Names and addresses are in it: read it before you publish it.`,
		Example: `  # For a report of a problem
  kubectl berth bundle

  # With the logs of an hour only
  kubectl berth bundle -f berth.tar.gz --since 1h

  # What does it say?
  kubectl berth status --bundle berth.tar.gz`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if since <= 0 {
				return fmt.Errorf("--since %s: write a time such as 1h", since)
			}
			to, err := c.clients()
			if err != nil {
				return err
			}
			b, err := bundle.Collect(cmd.Context(), to, c.namespace, since)
			if err != nil {
				return err
			}
			at, err := addReports(b)
			if err != nil {
				return err
			}
			if file == "" {
				file = "berth-" + at.UTC().Format("20060102T150405Z") + ".tar.gz"
			}
			if err := c.writeBundle(cmd.Context(), b, file, at); err != nil {
				return err
			}
			if file == "-" {
				return nil
			}
			written := struct {
				File   string   `json:"file"`
				Files  []string `json:"files"`
				Errors []string `json:"errors,omitempty"`
			}{file, b.Names(), b.Errors()}
			return out.print(c.Out, written, func(w io.Writer, wide bool) {
				fmt.Fprintf(
					w,
					"%s has %d files; it has names and addresses: read it before you publish it\n",
					file,
					len(written.Files),
				)
				for _, text := range written.Errors {
					fmt.Fprintf(w, "  could not be had: %s\n", text)
				}
				for _, name := range written.Files {
					if wide {
						fmt.Fprintf(w, "  %s\n", name)
					}
				}
			})
		},
	}
	out.register(cmd)
	cmd.Flags().
		StringVarP(&file, "filename", "f", "", "file to write; - is the standard output (default berth-TIME.tar.gz)")
	cmd.Flags().DurationVar(&since, "since", usualSince, "how old log lines may be")
	return cmd
}

// addReports adds what commands say, by what the bundle has: so they say the same when they read
// it. It returns when the cluster was read.
func addReports(b *bundle.Bundle) (at time.Time, err error) {
	s, err := b.State()
	if err != nil {
		return at, err
	}
	extras, err := b.Extras()
	if err != nil {
		return at, err
	}
	add := func(name string, found any, table func(io.Writer, bool)) {
		var text bytes.Buffer
		if err := (&output{format: "wide"}).print(&text, found, table); err != nil {
			b.Fail(name, err)
			return
		}
		b.Add(name, text.Bytes())
	}
	st := view.StatusOf(s)
	add("status.txt", st, func(w io.Writer, _ bool) { printStatus(w, st) })
	report := doctor.Look(s, extras, nil, nil)
	add("doctor.txt", report, func(w io.Writer, wide bool) { printReport(w, report, wide) })
	for _, svc := range view.ServicesOf(s, "") {
		if svc.Others {
			continue
		}
		report := why.Of(s, svc.Namespace, svc.Name, b.Pods(svc.Namespace))
		if report != nil && (svc.Reason != "" || !report.Reachable) {
			name := "why/" + svc.Namespace + "." + svc.Name + ".txt"
			add(name, report, func(w io.Writer, wide bool) { printWhy(w, report, wide) })
		}
	}
	return s.Taken, nil
}

// writeBundle writes the archive to a file that only its owner reads, whole or not at all.
func (c *common) writeBundle(ctx context.Context, b *bundle.Bundle, file string, at time.Time) error {
	if file == "-" {
		return b.Write(c.Out, at)
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".berth-bundle-*") // its mode is 0600
	if err != nil {
		return fmt.Errorf("-f: %w", err)
	}
	err = errors.Join(b.Write(f, at), f.Close(), ctx.Err())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // what failed is the error
		return fmt.Errorf("-f %s: %w", file, err)
	}
	return nil
}
