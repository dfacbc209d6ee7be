// Command walls measures how the packages of a module are built: files, lines, circles of files,
// longest functions.
//
// A circle is a set of files of one package each of which needs, directly or through others, every
// other one. A file needs another if it uses an identifier that the other declares: a type, a
// function, a method, a field, a constant or a variable. Tests and generated files do not count.
//
// With a limit, walls names what exceeds it and fails.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "walls:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("walls", flag.ContinueOnError)
	dir := flags.String("C", ".", "the directory of the module")
	quiet := flags.Bool("q", false, "print only what exceeds a limit")
	functions := flags.Int("functions", 20, "how many of the longest functions to print")
	l := limits{filesOf: map[string]int{}}
	flags.IntVar(&l.files, "max-files", 0, "the most files that a package may have (0: no limit)")
	flags.IntVar(&l.circle, "max-circle", 0, "the most files that a circle may have (0: no limit)")
	flags.Func("max-files-of", "PACKAGE=N: the most files of one package, instead of -max-files; repeatable", l.setFilesOf)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	packages, err := load(*dir)
	if err != nil {
		return err
	}
	if !*quiet {
		if err := report(out, packages, *functions); err != nil {
			return err
		}
	}
	return l.check(packages)
}

// limits is what a package may have at most. Zero is no limit.
type limits struct {
	files   int
	filesOf map[string]int // by package, instead of files
	circle  int
}

func (l limits) setFilesOf(text string) error {
	name, number, _ := strings.Cut(text, "=")
	n, err := strconv.Atoi(number)
	if err != nil || name == "" {
		return fmt.Errorf("%q is not PACKAGE=N", text)
	}
	l.filesOf[name] = n
	return nil
}

// check returns an error that names each package that exceeds a limit, and each limit for a package
// that does not exist.
func (l limits) check(packages []measured) error {
	var problems []error
	known := map[string]bool{}
	for _, p := range packages {
		known[p.name] = true
		most := l.files
		if n, ok := l.filesOf[p.name]; ok {
			most = n
		}
		if most > 0 && len(p.files) > most {
			problems = append(problems, fmt.Errorf("package %s has %d files; the limit is %d", p.name, len(p.files), most))
		}
		for _, c := range p.circles {
			if l.circle > 0 && len(c) > l.circle {
				problems = append(problems, fmt.Errorf("package %s has a circle of %d files; the limit is %d: %s",
					p.name, len(c), l.circle, strings.Join(c, ", ")))
			}
		}
	}
	for name := range l.filesOf {
		if !known[name] {
			problems = append(problems, fmt.Errorf("-max-files-of: there is no package %s", name))
		}
	}
	return errors.Join(problems...)
}
