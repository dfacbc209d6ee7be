package lint

import (
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// place is where an object is in its file. The zero value is nowhere.
type place struct {
	node   *yaml.Node
	offset int // of the document's lines in the file
}

// placeOf returns the place of a document that begins on a line of the file, from 1.
func placeOf(document []byte, line int) place {
	var node yaml.Node
	if yaml.Unmarshal(document, &node) != nil || len(node.Content) == 0 {
		return place{} // another version of YAML reads it
	}
	return place{node.Content[0], line - 1}
}

// item returns the object with a place in the list.
func (o Object) item(i int) Object {
	if _, value := child(o.at.node, "items"); value != nil && i < len(value.Content) {
		o.at.node = value.Content[i]
		o.Line = o.at.offset + o.at.node.Line
	}
	return o
}

// line returns the line of the field at a path, or of the last one on the way to it that exists.
func (p place) line(path []string, beginning int) int {
	line, node := beginning, p.node
	for _, name := range path {
		key, value := child(node, name)
		if key == nil {
			break
		}
		line, node = p.offset+key.Line, value
	}
	return line
}

// child returns what names a child of a node, and its value; nil if there is none.
func child(node *yaml.Node, name string) (key, value *yaml.Node) {
	node = behind(node)
	switch {
	case node == nil:
	case node.Kind == yaml.SequenceNode:
		if i, err := strconv.Atoi(name); err == nil && i >= 0 && i < len(node.Content) {
			return node.Content[i], node.Content[i]
		}
	case node.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == name {
				return node.Content[i], node.Content[i+1]
			}
		}
	}
	return nil, nil
}

// behind returns the node that an alias stands for.
func behind(node *yaml.Node) *yaml.Node {
	if node != nil && node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

var (
	// fieldFirst is a message that begins with a field, as those of an API server and of the compiler.
	fieldFirst = regexp.MustCompile(`^(?:apiVersion|kind|metadata|spec)\b[^:;, ]*`)
	// annotationFirst begins with an annotation, and perhaps the index in its list.
	annotationFirst = regexp.MustCompile(`^annotation ([^:; \[]+)`)
	// steps are those of a path: names with points between them, and keys and indexes in brackets.
	steps = regexp.MustCompile(`[^.\[\]]+|\[[^\]]*\]`)
)

// pathIn returns the path of the field that a message begins with.
func pathIn(message string) []string {
	if found := annotationFirst.FindStringSubmatch(message); found != nil {
		return []string{"metadata", "annotations", found[1]}
	}
	var path []string
	for _, step := range steps.FindAllString(fieldFirst.FindString(message), -1) {
		path = append(path, strings.Trim(step, "[]"))
	}
	return path
}
