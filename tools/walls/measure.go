package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

// measured is what is known of a package.
type measured struct {
	name      string // its path below the module's, or "." for the module's own
	files     []string
	lines     int
	circles   [][]string // the largest first
	functions []function
}

type function struct {
	name  string // with its receiver: (*Driver).Sync
	file  string // path below the module, with the line
	lines int
}

// load measures the packages of the module in a directory, sorted by name.
func load(dir string) ([]measured, error) {
	mode := packages.LoadSyntax | packages.NeedModule
	loaded, err := packages.Load(&packages.Config{Mode: mode, Dir: dir}, "./...")
	if err != nil {
		return nil, err
	}
	var all []measured
	var problems []error
	for _, p := range loaded {
		for _, e := range p.Errors {
			problems = append(problems, e)
		}
		if p.Module == nil {
			problems = append(problems, fmt.Errorf("%s is in no module", p.PkgPath))
			continue
		}
		if m := measure(p); len(m.files) > 0 {
			all = append(all, m)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("there are no packages in %s", dir)
	}
	slices.SortFunc(all, func(a, b measured) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

func measure(p *packages.Package) measured {
	m := measured{name: "."}
	if p.PkgPath != p.Module.Path {
		m.name = strings.TrimPrefix(p.PkgPath, p.Module.Path+"/")
	}
	needs := map[string]map[string]bool{}
	for _, file := range p.Syntax {
		if ast.IsGenerated(file) {
			continue
		}
		tokens := p.Fset.File(file.FileStart)
		name := filepath.Base(tokens.Name())
		m.files = append(m.files, name)
		m.lines += tokens.LineCount()
		needs[name] = neededBy(file, p)
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				m.functions = append(m.functions, describe(f, p.Fset, m.name))
			}
		}
	}
	m.circles = circles(m.files, needs)
	return m
}

// neededBy returns the files of the package that declare what a file of it uses.
func neededBy(file *ast.File, p *packages.Package) map[string]bool {
	needed := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		id, ok := n.(*ast.Ident)
		if !ok {
			return true
		}
		if object := p.TypesInfo.Uses[id]; object != nil && object.Pkg() == p.Types {
			if declared := p.Fset.File(origin(object).Pos()); declared != nil {
				needed[filepath.Base(declared.Name())] = true
			}
		}
		return true
	})
	return needed
}

// origin returns the object as it is declared, for one of an instance of a generic type.
func origin(object types.Object) types.Object {
	switch o := object.(type) {
	case *types.Func:
		return o.Origin()
	case *types.Var:
		return o.Origin()
	}
	return object
}

func describe(f *ast.FuncDecl, files *token.FileSet, in string) function {
	begin, end := files.Position(f.Pos()), files.Position(f.End())
	name := f.Name.Name
	if f.Recv != nil && len(f.Recv.List) == 1 {
		receiver := types.ExprString(f.Recv.List[0].Type)
		if strings.HasPrefix(receiver, "*") {
			receiver = "(" + receiver + ")"
		}
		name = receiver + "." + name
	}
	where := filepath.Join(in, filepath.Base(begin.Filename))
	return function{name, fmt.Sprintf("%s:%d", where, begin.Line), end.Line - begin.Line + 1}
}
