package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// report prints a table of the packages, the files of their circles, and the longest functions.
func report(out io.Writer, packages []measured, functions int) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PACKAGE\tFILES\tLINES\tCIRCLES")
	var all []function
	files, lines := 0, 0
	for _, p := range packages {
		sizes := []string{}
		for _, c := range p.circles {
			sizes = append(sizes, strconv.Itoa(len(c)))
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\n", p.name, len(p.files), p.lines, cmp.Or(strings.Join(sizes, " + "), "-"))
		files, lines = files+len(p.files), lines+p.lines
		all = append(all, p.functions...)
	}
	fmt.Fprintf(w, "%d packages\t%d\t%d\t\n", len(packages), files, lines)

	fmt.Fprintln(w, "\nCIRCLE IN\tSIZE\tFILES")
	for _, p := range packages {
		for _, c := range p.circles {
			fmt.Fprintf(w, "%s\t%d\t%s\n", p.name, len(c), strings.Join(c, " "))
		}
	}

	slices.SortFunc(all, func(a, b function) int {
		return cmp.Or(b.lines-a.lines, strings.Compare(a.file, b.file))
	})
	fmt.Fprintln(w, "\nLINES\tFUNCTION\tFILE")
	for _, f := range all[:min(functions, len(all))] {
		fmt.Fprintf(w, "%d\t%s\t%s\n", f.lines, f.name, f.file)
	}
	fmt.Fprintf(w, "%d functions, median %d lines\n", len(all), all[len(all)/2].lines)
	return w.Flush()
}
