// Command prose checks the texts of a tree: comments and strings in Go, Markdown, and YAML.
//
//   - Words that are not to be used (words.txt) and British spellings.
//   - Columns: comments in Go end by column 100, other lines by 120. A tab is one column, as for
//     gofmt and lll. A line that is long because of one string or URL is left alone.
//   - Links in Markdown: files and headings that they lead to exist. External ones are only parsed.
//     So is each mention of docs/*.md in Go, YAML and scripts.
//
// Generated files, testdata, and what exempt.txt lists are left out.
package main

import (
	"bytes"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "prose:", err)
		os.Exit(1)
	}
}

//go:embed exempt.txt
var exemptFile string

// finding is something wrong in a line of a file.
type finding struct {
	file string
	line int
	text string
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("prose", flag.ContinueOnError)
	dir := flags.String("C", ".", "the directory of the tree")
	all := flags.Bool("all", false, "check what exempt.txt lists, too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	words, err := parseWords(wordsFile)
	if err != nil {
		return err
	}
	exempt := lines(exemptFile)
	if *all {
		exempt = nil
	}
	findings, err := check(os.DirFS(*dir), words, exempt, flags.Args())
	if err != nil {
		return err
	}
	for _, f := range findings {
		fmt.Fprintf(out, "%s:%d: %s\n", f.file, f.line, f.text)
	}
	if len(findings) > 0 {
		return fmt.Errorf("%d findings; what to write instead is in tools/prose/words.txt", len(findings))
	}
	return nil
}

// lines returns the lines of a text without the empty ones and comments.
func lines(text string) []string {
	var found []string
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" {
			found = append(found, line)
		}
	}
	return found
}

// within reports whether a path is one of those, or below one.
func within(name string, paths []string) bool {
	return slices.ContainsFunc(paths, func(p string) bool {
		p = path.Clean(p)
		return p == "." || name == p || strings.HasPrefix(name, p+"/")
	})
}

// check returns what is wrong with the files of a tree: all but the exempt ones, or those of them
// that are in only. Links are checked in exempt files, too.
func check(tree fs.FS, words []word, exempt, only []string) ([]finding, error) {
	var findings []finding
	var problems []error
	links := &linkChecker{tree: tree, anchors: map[string]map[string]bool{}}
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if skipped(entry.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if len(only) > 0 && !within(name, only) || !isText(name) || name == ownTest || !entry.Type().IsRegular() {
			return nil
		}
		text, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		if bytes.IndexByte(text, 0) >= 0 {
			return nil // a program
		}
		found, err := links.check(name, string(text))
		if err != nil {
			problems = append(problems, err)
		}
		findings = append(findings, found...)
		if within(name, exempt) || isGenerated(text) {
			return nil
		}
		found, err = checkFile(name, text, words)
		if err != nil {
			problems = append(problems, err)
		}
		findings = append(findings, found...)
		return nil
	})
	return findings, errors.Join(append(problems, err)...)
}

// skipped reports whether a directory of this name holds nothing to check: caches, results, inputs
// of tests.
func skipped(name string) bool {
	return name == "testdata" || name == "bin" || strings.HasPrefix(name, ".") && name != "." && name != ".ci"
}

// ownTest is full of what this program finds.
const ownTest = "tools/prose/prose_test.go"

func isText(name string) bool {
	switch path.Ext(name) {
	case ".go", ".md", ".yaml", ".yml":
		return true
	case "": // scripts
		return !strings.HasPrefix(path.Base(name), ".") && path.Base(name) != "LICENSE"
	}
	return false
}

// isGenerated reports whether a text says of itself that it is generated: Go, CRDs and the API's
// reference do.
func isGenerated(text []byte) bool {
	head := text[:min(len(text), 600)]
	for _, mark := range []string{"// Code generated ", "controller-gen.kubebuilder.io/version", "\nGenerated from "} {
		if bytes.Contains(head, []byte(mark)) {
			return true
		}
	}
	return false
}

// checkFile returns what is wrong with the words and columns of a file.
func checkFile(name string, text []byte, words []word) ([]finding, error) {
	if path.Ext(name) == ".go" {
		return checkGo(name, text, words)
	}
	return checkWords(name, string(text), words), nil
}

// checkWords returns the words in a text, by line.
func checkWords(name, text string, words []word) []finding {
	var findings []finding
	for _, w := range words {
		for _, offset := range w.in(text) {
			line := 1 + strings.Count(text[:offset], "\n")
			findings = append(findings, finding{name, line, w.describe(text, offset)})
		}
	}
	slices.SortStableFunc(findings, func(a, b finding) int { return a.line - b.line })
	return findings
}
