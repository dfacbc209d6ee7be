package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
)

// annotations lists the constants of the Go file that name annotations and labels, by their doc
// comments.
func (p *page) annotations(file string) error {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	p.line("\n## Annotations and labels\n\nThey are part of the API, and as stable as the fields.\n\n" +
		"Berth serves Services of type LoadBalancer with `loadBalancerClass: berth.dev/lb`, and by default those without a class: " +
		"see [what a Service can ask for](annotations.md). It writes the conditions `berth.dev/Allocated`, `berth.dev/Announced` and " +
		"`berth.dev/Record` into them: see [conditions](conditions.md).\n")
	for _, d := range parsed.Decls {
		group, ok := d.(*ast.GenDecl)
		if !ok || group.Tok != token.CONST {
			continue
		}
		for _, s := range group.Specs {
			constant, ok := s.(*ast.ValueSpec)
			if !ok || len(constant.Names) != 1 || len(constant.Values) != 1 {
				continue
			}
			name := constant.Names[0].Name
			if !strings.HasPrefix(name, "Annotation") && !strings.HasSuffix(name, "Label") {
				continue
			}
			value, ok := constant.Values[0].(*ast.BasicLit)
			if !ok {
				continue
			}
			text, err := strconv.Unquote(value.Value)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", file, name, err)
			}
			doc, of := constant.Doc, strings.TrimSuffix(strings.TrimPrefix(prose(group.Doc.Text()), "Annotations "), ".")
			if doc == nil { // a constant by itself
				doc, of = group.Doc, ""
			}
			what := strings.TrimSpace(strings.TrimPrefix(prose(doc.Text()), name))
			if of != "" {
				what = of + ": " + what
			}
			p.line("- `%s` %s", text, what)
		}
	}
	return nil
}
