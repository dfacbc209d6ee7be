package main

import (
	_ "embed"
	"fmt"
	"regexp"
	"strings"
)

//go:embed words.txt
var wordsFile string

// word is one that texts do without.
type word struct {
	pattern *regexp.Regexp
	except  *regexp.Regexp // nil: none
	instead string
}

// parseWords reads the format that words.txt describes.
func parseWords(text string) ([]word, error) {
	var words []word
	for number, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		pattern, rest, ok := strings.Cut(line, "=>")
		if !ok {
			return nil, fmt.Errorf("words.txt:%d: there is no => in %q", number+1, line)
		}
		instead, except, hasExcept := strings.Cut(rest, " ! ")
		w := word{instead: strings.TrimSpace(instead)}
		var err error
		if w.pattern, err = compile(pattern); err != nil {
			return nil, fmt.Errorf("words.txt:%d: %w", number+1, err)
		}
		if hasExcept {
			if w.except, err = compile(except); err != nil {
				return nil, fmt.Errorf("words.txt:%d: %w", number+1, err)
			}
		}
		words = append(words, w)
	}
	return words, nil
}

// compile makes a pattern match whole words, in any case, with any white space where it has a
// space.
func compile(pattern string) (*regexp.Regexp, error) {
	pattern = strings.Join(strings.Fields(pattern), `\s+`)
	begin := `\b`
	if strings.HasPrefix(pattern, "%") {
		begin = ""
	}
	return regexp.Compile(`(?i)` + begin + `(?:` + pattern + `)\b`)
}

// in returns where the word stands in the text.
func (w word) in(text string) []int {
	matches := w.pattern.FindAllStringIndex(text, -1)
	if matches == nil {
		return nil
	}
	var excepted [][]int
	if w.except != nil {
		excepted = w.except.FindAllStringIndex(text, -1)
	}
	var found []int
next:
	for _, m := range matches {
		for _, e := range excepted {
			if e[0] <= m[0] && m[1] <= e[1] || m[0] <= e[0] && e[1] <= m[1] {
				continue next
			}
		}
		found = append(found, m[0])
	}
	return found
}

// describe says what stands at the offset, and what to write instead.
func (w word) describe(text string, offset int) string {
	length := w.pattern.FindStringIndex(text[offset:])[1]
	return fmt.Sprintf("%q: write %s", strings.Join(strings.Fields(text[offset:offset+length]), " "), w.instead)
}
