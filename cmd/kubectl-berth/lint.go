package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/kubectl/lint"
)

func lintCommand(c *common) *cobra.Command {
	var out output
	var complete, strict bool
	cmd := &cobra.Command{
		Use:   "lint FILE...",
		Short: "Judge files as the API server and Berth would, without a cluster",
		Long: `Judge files as the API server and Berth would, without a cluster.

Berth's objects are checked by the schemas and rules of their kinds, then together by
the compiler of the controller, whose words these are. Of Services the annotations are
checked. A folder stands for all *.yaml, *.yml and *.json in it, - for the standard
input. Objects of other kinds are passed over.

The exit code is 0 if all would be in effect, 1 if not, 2 if the files cannot be read.`,
		Example: `  # Before a commit
  kubectl berth lint deploy/

  # In CI, where the files are all there is
  kubectl berth lint --complete --strict deploy/

  # What a chart makes
  helm template berth charts/berth -f values.yaml | kubectl berth lint -`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := readFiles(c.In, args)
			if err != nil {
				return err
			}
			schemas, err := lint.NewSchemas()
			if err != nil {
				return err
			}
			result := schemas.Files(cmd.Context(), files, complete)
			if result.Judged == 0 && len(result.Findings) == 0 {
				return lint.ErrNothing
			}
			err = out.print(c.Out, result, func(w io.Writer, wide bool) {
				for _, f := range result.Findings {
					fmt.Fprintf(w, "%s:%d\t%s\t%s\t%s\n", f.File, f.Line, dash(f.Object), f.Severity, f.Message)
				}
				if len(result.Findings) == 0 || wide {
					fmt.Fprintf(w, "judged %d objects, passed over %d of other kinds\n", result.Judged, result.Passed)
				}
			})
			if err == nil && result.Failed(strict) {
				return errFinds
			}
			return err
		},
	}
	out.register(cmd)
	cmd.Flags().BoolVar(&complete, "complete", false, "what objects name has to be among the files")
	cmd.Flags().BoolVar(&strict, "strict", false, "exit with code 1 for warnings, too")
	return cmd
}

// longestFile bounds what is read of one file, in bytes.
const longestFile = 64 << 20

// readFiles reads files, the YAML and JSON in folders, and for - the standard input.
func readFiles(in io.Reader, names []string) ([]lint.File, error) {
	var files []lint.File
	read := func(name string, from io.Reader) error {
		text, err := io.ReadAll(io.LimitReader(from, longestFile+1))
		if err == nil && len(text) > longestFile {
			err = fmt.Errorf("%s: is longer than %d MiB", name, longestFile>>20)
		}
		files = append(files, lint.File{Name: name, Text: text})
		return err
	}
	open := func(name string) error {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(read(name, file), file.Close())
	}
	for _, name := range names {
		if name == "-" {
			if err := read("(standard input)", in); err != nil {
				return nil, err
			}
			continue
		}
		err := filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error {
			suffix := strings.ToLower(filepath.Ext(path))
			switch {
			case err != nil:
				return err
			case entry.IsDir(), path != name && !slices.Contains([]string{".yaml", ".yml", ".json"}, suffix):
				return nil
			}
			return open(path)
		})
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}
