package bundle

import (
	"regexp"
	"strings"
)

const (
	// ends are what may follow the quote that ends a value.
	ends = " \t\r\n\"'`\\,:;})]"
	// opens are what stands before a quote with which a value begins, but for spaces.
	opens = "=:,([{"
	// mostLines bounds how far a value in quotes goes on if its end is not on its line.
	mostLines = 20
	// longest bounds a value, and with it the time that a line of many of them takes.
	longest = 32 << 10
)

var (
	unquoted = regexp.MustCompile("^(?:[^\\s\"'`]|[\"'`]+" + goesOn + ")*")
	// nextName is of another value that is redacted by itself.
	nextName = regexp.MustCompile(`(?i)[ \t]+(?:` + fieldName + `)[ \t]*[:=]`)
	// goType is of a list or map in Go, before what is in it.
	goType = regexp.MustCompile(`^&?(?:\[\d*\]|map\[[\w.]+\])+[\w.*]*\{`)
)

// valueEnd returns where the value ends that begins a text: with its quote or bracket, or before a
// space, or with its line if it may have spaces. Where that is not clear, it ends with the line.
func valueEnd(text string, spaces bool) int {
	end := firstEnd(text, spaces)
	if !spaces {
		return end
	}
	rest := text[end:]
	line := rest[:lineEnd(rest)]
	if at := nextName.FindStringIndex(line); at != nil {
		return end + at[0]
	}
	return end + len(line)
}

// firstEnd returns where a value may end.
func firstEnd(text string, spaces bool) int {
	slashes := len(text) - len(strings.TrimLeft(text, `\`))
	switch rest := text[slashes:]; {
	case rest == "":
		return len(text)
	case isQuote(rest[0]):
		return quotedEnd(text, slashes)
	case slashes == 0 && goType.MatchString(rest):
		inner := len(goType.FindString(rest)) - 1
		return inner + bracketsEnd(text[inner:])
	case slashes == 0 && (rest[0] == '{' || rest[0] == '['):
		end := bracketsEnd(text)
		if end < len(text) && !strings.ContainsRune(ends, rune(text[end])) {
			end += len(unquoted.FindString(text[end:]))
		}
		return end
	case spaces:
		return 0
	}
	return len(unquoted.FindString(text))
}

// upTo returns the beginning of a text, as far as a value may reach.
func upTo(text string) string { return text[:min(len(text), longest)] }

func isQuote(c byte) bool { return c == '"' || c == '\'' || c == '`' }

// lineEnd returns where the first line of a text ends.
func lineEnd(text string) int {
	if n := strings.IndexByte(text, '\n'); n >= 0 {
		return n
	}
	return len(text)
}

// slashesBefore returns how many backslashes stand directly before a place.
func slashesBefore(text string, at int) int { return at - len(strings.TrimRight(text[:at], `\`)) }

// quotedEnd returns where a value ends that begins with a quote after so many backslashes.
func quotedEnd(text string, slashes int) int {
	quote, line := text[slashes], lineEnd(text)
	limit := line
	for range mostLines {
		limit = min(limit+1+lineEnd(text[min(limit+1, len(text)):]), len(text))
	}
	doubtful := false // there was a quote that may have been the end: it is not beyond the line
	for i := slashes + 1; i < limit && (i < line || !doubtful); i++ {
		if text[i] != quote {
			continue
		}
		after := text[i+1:]
		rest := after[:lineEnd(after)]
		switch {
		case quote == '\'' && strings.HasPrefix(after, `'`) && slashes == 0: // as YAML escapes one
			i++
		case quote == '\'' && strings.HasPrefix(after, `\''`): // and a shell
			i += 3
		case quote == '\'' && strings.HasPrefix(after, `"'"'`):
			i += 4
		case isEscaped(quote, slashes, slashesBefore(text[slashes+1:], i-slashes-1), rest):
		case after != "" && !strings.ContainsRune(ends, rune(after[0])), slashes == 0 && goesOnTo(quote, rest):
			doubtful = true
		default:
			return i + 1
		}
	}
	return line
}

// isEscaped reports whether a quote after so many backslashes is part of a value that begins with
// one after some: each time that a text is quoted, its quotes have twice as many, and one.
func isEscaped(quote byte, slashes, before int, rest string) bool {
	switch {
	case quote == '`':
		return false
	case quote == '\'' && slashes == 0: // in Python; a shell has no escapes there
		return before%2 == 1 && strings.Contains(rest, `'`)
	}
	return before%(2*(slashes+1)) != slashes
}

// goesOnTo reports whether the next such quote in the rest of a line cannot be where a value
// begins, so that the last was not where one ends.
func goesOnTo(quote byte, rest string) bool {
	for i := range len(rest) {
		if rest[i] != quote || quote == '"' && slashesBefore(rest, i)%2 == 1 {
			continue
		}
		before := strings.TrimRight(rest[:i], " \t")
		return before == "" || !strings.ContainsRune(opens, rune(before[len(before)-1]))
	}
	return false
}

// bracketsEnd returns where a list or map ends that begins a text. It goes on to the next line if
// that is indented, or begins with a bracket that closes.
func bracketsEnd(text string) int {
	depth, last := 0, byte(0) // last is what stands before, but for spaces, backslashes and times
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			if depth--; depth == 0 {
				return i + 1
			}
		case isQuote(c) && strings.IndexByte(opens, last) >= 0:
			slashes := slashesBefore(text, i)
			i += quotedEnd(text[i-slashes:], slashes) - slashes - 1
		case c == '\n':
			time, line := cutStamp(text[i+1:])
			if line == "" || !strings.ContainsRune(" \t]}", rune(line[0])) {
				return i
			}
			i += len(time)
		}
		if !strings.ContainsRune(" \t\r\n\\", rune(c)) {
			last = c
		}
	}
	return len(text)
}

// opening returns where the quote and its backslashes begin before a name: what it is given ends
// where they do. None: -1.
func opening(text string, name int) (at, slashes int) {
	start := len(strings.TrimRight(text[:name], "-"))
	if start == 0 || !isQuote(text[start-1]) {
		return -1, 0
	}
	slashes = slashesBefore(text, start-1)
	return start - 1 - slashes, slashes
}
