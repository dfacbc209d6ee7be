package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	commentColumns = 100
	codeColumns    = 120
	// A line that is shorter than this but for its longest string is not wrapped by anybody.
	columnsBesideString = 80
)

// checkGo returns what is wrong in a Go file: words in comments and strings, and lines that are too
// long.
func checkGo(name string, text []byte, words []word) ([]finding, error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	source := &goSource{
		name:  name,
		lines: strings.Split(string(text), "\n"),
		kept:  []byte(strings.Repeat(" ", len(text))),
		saved: map[int]int{},
	}
	for i, b := range text {
		if b == '\n' {
			source.kept[i] = '\n'
		}
	}
	position := func(p token.Pos) token.Position { return files.PositionFor(p, false) }
	for _, group := range file.Comments {
		for _, c := range group.List {
			source.keep(position(c.Pos()).Offset, c.Text, "//")
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if _, ok := n.(*ast.ImportSpec); ok {
			return false
		}
		if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			at := position(literal.Pos())
			source.keep(at.Offset, literal.Value, `"`)
			source.save(at.Line, literal.Value)
		}
		return true
	})
	findings := append(checkWords(name, string(source.kept), words), source.tooLong()...)
	slices.SortStableFunc(findings, func(a, b finding) int { return a.line - b.line })
	return findings, nil
}

// goSource is a Go file, and its prose at the places where it stands in the file.
type goSource struct {
	name  string
	lines []string
	kept  []byte
	saved map[int]int // by line, the columns of its longest string; of one that goes on, all
}

// keep copies a comment or a literal, without the mark that begins it, so that a phrase is found
// across lines. Strings that are not raw keep their escapes; a dot ends them, so that no phrase
// goes from one into the next.
func (s *goSource) keep(offset int, text, mark string) {
	copy(s.kept[offset:], text)
	if strings.HasPrefix(text, mark) {
		copy(s.kept[offset:], strings.Repeat(" ", len(mark)))
	}
	if mark == `"` {
		s.kept[offset+len(text)-1] = '.'
	}
}

// save notes how many columns of its lines a string takes.
func (s *goSource) save(line int, literal string) {
	parts := strings.Split(literal, "\n")
	for i, part := range parts {
		length := utf8.RuneCountInString(part)
		if len(parts) > 1 {
			length = utf8.RuneCountInString(s.lines[line+i-1])
		}
		s.saved[line+i] = max(s.saved[line+i], length)
	}
}

func (s *goSource) tooLong() []finding {
	var findings []finding
	for i, line := range s.lines {
		columns := utf8.RuneCountInString(line)
		switch trimmed := strings.TrimSpace(line); {
		case columns <= commentColumns || isDirective(trimmed) || strings.Contains(line, "://"):
		case strings.HasPrefix(trimmed, "//") && s.saved[i+1] == 0:
			findings = append(findings, finding{s.name, i + 1, "a comment ends by column 100"})
		case columns > codeColumns && columns-s.saved[i+1] > columnsBesideString:
			findings = append(findings, finding{s.name, i + 1, "a line ends by column 120"})
		}
	}
	return findings
}

// isDirective reports whether a line is a comment for a program, which cannot be wrapped.
func isDirective(line string) bool {
	return slices.ContainsFunc([]string{"//go:", "//nolint", "// +", "//+"}, func(mark string) bool {
		return strings.HasPrefix(line, mark)
	})
}
