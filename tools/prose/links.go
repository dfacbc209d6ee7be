package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"regexp"
	"strings"
	"unicode"
)

var (
	// [text](target), [text](target "title"), ![text](target); [name]: target
	inlineLink    = regexp.MustCompile(`\]\(\s*<?([^)\s>]*)>?(?:\s+"[^"]*")?\s*\)`)
	referenceLink = regexp.MustCompile(`(?m)^ {0,3}\[[^\]]+\]:\s+<?([^\s>]+)>?`)
	htmlLink      = regexp.MustCompile(`(?i)<(?:a|img)\b[^>]*?\b(?:href|src)="([^"]*)"`)
	htmlAnchor    = regexp.MustCompile(`(?i)<[a-z][a-z0-9]*\b[^>]*?\b(?:id|name)="([^"]*)"`)
	heading       = regexp.MustCompile(`^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$`)
	linkInHeading = regexp.MustCompile(`!?\[([^\]]*)\]\([^)]*\)`)
	tagInHeading  = regexp.MustCompile(`</?[a-zA-Z][^>]*>`)
	fence         = regexp.MustCompile("^\\s*(```+|~~~+)")
	inlineCode    = regexp.MustCompile("(`+)[^`]+?(`+)")
	// A page that a comment, a message or a script mentions by its path from the root.
	mention = regexp.MustCompile(`(^|[^\w/.-])(docs/[\w/.-]*\.md(?:#[\w-]+)?)`)
)

// linkChecker knows the anchors of the pages of a tree.
type linkChecker struct {
	tree    fs.FS
	anchors map[string]map[string]bool // by file
}

// check returns the links of a file that lead nowhere.
func (l *linkChecker) check(name, text string) ([]finding, error) {
	var findings []finding
	add := func(offset int, target, base string) error {
		problem, err := l.problem(base, target)
		if problem != "" {
			line := 1 + strings.Count(text[:offset], "\n")
			findings = append(findings, finding{name, line, fmt.Sprintf("link %s: %s", target, problem)})
		}
		return err
	}
	if path.Ext(name) != ".md" {
		for _, m := range mention.FindAllStringSubmatchIndex(text, -1) {
			if err := add(m[4], text[m[4]:m[5]], "."); err != nil {
				return nil, err
			}
		}
		return findings, nil
	}
	prose := withoutCode(text)
	for _, pattern := range []*regexp.Regexp{inlineLink, referenceLink, htmlLink} {
		for _, m := range pattern.FindAllStringSubmatchIndex(prose, -1) {
			if err := add(m[2], prose[m[2]:m[3]], name); err != nil {
				return nil, err
			}
		}
	}
	return findings, nil
}

// problem says why a link of a file leads nowhere; "" if it does not.
func (l *linkChecker) problem(from, target string) (string, error) {
	if target == "" {
		return "has no target", nil
	}
	u, err := url.Parse(target)
	switch {
	case err != nil:
		return err.Error(), nil
	case u.Scheme == "mailto":
		return "", nil
	case u.Scheme != "" && (u.Scheme != "http" && u.Scheme != "https" || u.Host == ""):
		return "is not a URL of a page", nil
	case u.Scheme != "" || u.Host != "":
		return "", nil
	case strings.HasPrefix(u.Path, "/"):
		return "is not relative", nil
	}
	file := from
	if u.Path != "" {
		file = path.Join(path.Dir(from), u.Path)
	}
	if !fs.ValidPath(file) {
		return "leads out of the tree", nil
	}
	if _, err := fs.Stat(l.tree, file); errors.Is(err, fs.ErrNotExist) {
		return "there is no " + file, nil
	} else if err != nil {
		return "", err
	}
	if u.Fragment == "" || path.Ext(file) != ".md" {
		return "", nil
	}
	anchors, err := l.anchorsOf(file)
	if err == nil && !anchors[u.Fragment] {
		return fmt.Sprintf("%s has no heading or anchor #%s", file, u.Fragment), nil
	}
	return "", err
}

func (l *linkChecker) anchorsOf(file string) (map[string]bool, error) {
	if known, ok := l.anchors[file]; ok {
		return known, nil
	}
	text, err := fs.ReadFile(l.tree, file)
	if err != nil {
		return nil, err
	}
	l.anchors[file] = anchors(string(text))
	return l.anchors[file], nil
}

// anchors returns those of the headings of a page, as GitHub makes them, and those that its HTML
// sets.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	times := map[string]int{}
	for line := range strings.Lines(withoutFences(text)) {
		m := heading.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			continue
		}
		name := slug(m[1])
		anchor := name
		if n := times[name]; n > 0 {
			anchor = fmt.Sprintf("%s-%d", name, n)
		}
		times[name]++
		found[anchor] = true
	}
	for _, m := range htmlAnchor.FindAllStringSubmatch(withoutCode(text), -1) {
		found[m[1]] = true
	}
	return found
}

// slug is the anchor of a heading: in lower case, without punctuation, with hyphens for spaces.
func slug(title string) string {
	title = linkInHeading.ReplaceAllString(title, "$1")
	title = tagInHeading.ReplaceAllString(title, "")
	var b strings.Builder
	for _, r := range strings.ToLower(strings.TrimSpace(title)) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r):
			b.WriteRune(r)
		}
	}
	return b.String()
}

// withoutFences returns a page with its code blocks blanked.
func withoutFences(text string) string {
	var b strings.Builder
	open := ""
	for line := range strings.Lines(text) {
		m := fence.FindStringSubmatch(line)
		switch {
		case open == "" && m != nil:
			open = m[1]
		case open != "" && m != nil && strings.HasPrefix(m[1], open) && strings.TrimSpace(line) == m[1]:
			open = ""
		case open == "":
			b.WriteString(line)
			continue
		}
		b.WriteString(blank(line))
	}
	return b.String()
}

// withoutCode returns a page with its code blocks and inline code blanked.
func withoutCode(text string) string {
	return inlineCode.ReplaceAllStringFunc(withoutFences(text), blank)
}

// blank returns as many bytes, all spaces but for the ends of lines.
func blank(text string) string {
	b := []byte(text)
	for i := range b {
		if b[i] != '\n' {
			b[i] = ' '
		}
	}
	return string(b)
}
