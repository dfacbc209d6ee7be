package bundle

import (
	"regexp"
	"strings"
)

var (
	// named is a name before a value, which is in quotes, or ends with a space.
	named = regexp.MustCompile(`(?i)\b((` + fieldName + `|` + secretHeaders + `))` +
		`(` + quotes + `?[ \t]*(?::=|=>|[:=])[ \t]*)`)
	// paired is a field that has the name, before one that has the value.
	paired = regexp.MustCompile(`(?i)\b(?:name|key)` + quotes + `?[ \t]*[:=][ \t]*` + quotes + `?(` + fieldName +
		`|` + secretHeaders + `)` + quotes + `?[ \t]*,?(?:` + newline + `|[ \t]*)` + quotes + `?\b(value)(` +
		quotes + `?[ \t]*[:=][ \t]*)`)
	headerName = regexp.MustCompile(`(?i)^(?:` + secretHeaders + `)$`)
	// scheme is how one authenticates: it is no secret.
	scheme = regexp.MustCompile(`(?i)^(?:basic|bearer|digest|negotiate|token|apikey)[ \t]+`)
	// typeName is of a type in another package of Go.
	typeName = regexp.MustCompile(`^\w+\.[A-Z]\w*$`)
	imageTag = regexp.MustCompile(`^v?\d+\.\d[-\w.]*(?:[\s"'@,]|$)`)
	// byGo is the beginning of a map or struct of Go's that is printed without quotes.
	byGo = regexp.MustCompile(`map\[|\{[A-Z]\w*:`)
	// flagged is a flag before its value, which may be the next in a list.
	flagged = regexp.MustCompile(`(?i)\B` + flagName + `(?:[ \t]+|` + quotes + `(?:[ \t]*,(?:` +
		newline + `|[ \t]*)|[ \t]*)|` + quotes + `?` + newline + `-[ \t]+)`)
)

// longestPath bounds a path, and the time to find where it begins.
const longestPath = 1 << 10

// names redacts values after a name. The groups of the pattern are what names the secret, the name
// before the value, and what separates these two.
func names(text string, pattern *regexp.Regexp) string {
	var out strings.Builder
	at, end, p := 0, 0, place{text: text} // names are searched up to end
	for {
		if at >= end {
			var start int
			start, end = nextMarked(text, at)
			out.WriteString(text[at:start])
			if at = start; at == len(text) {
				return out.String()
			}
		}
		m := pattern.FindStringSubmatchIndex(text[at:end])
		if m == nil {
			out.WriteString(text[at:end])
			at = end
			continue
		}
		for i := range m {
			m[i] += at
		}
		name, separator, value := text[m[2]:m[3]], text[m[6]:m[7]], m[1]
		isHeader := headerName.MatchString(name)
		if isHeader {
			value += len(scheme.FindString(text[value:]))
		}
		p.moveTo(m[4])
		out.WriteString(text[at:value])
		at = value
		if harmlessName.MatchString(name) || refersTo(text[:m[2]], name, separator, text[value:]) {
			continue
		}
		if start, slashes := opening(text, m[4]); start >= 0 && !strings.ContainsAny(separator, "\"'`") {
			at = max(value, start+quotedEnd(upTo(text[start:]), slashes))
			if quote := text[start : start+slashes+1]; strings.HasSuffix(text[value:at], quote) {
				at -= len(quote)
			}
			if at > value {
				out.WriteString(Redacted)
			}
			continue
		}
		if isHeader {
			at += headerEnd(text[value:], text[p.line:m[4]])
		} else {
			at += valueEnd(upTo(text[value:]), p.maySpaces(name, separator, value))
		}
		if at > value {
			out.WriteString(quoted(text[value:at]))
		}
	}
}

// refersTo reports whether a name before a colon is of a thing, of which the rest of the line tells
// something: a file, a URL, an image, a type of Go's, or a Secret of Berth's.
func refersTo(before, name, separator, after string) bool {
	before = before[max(0, len(before)-longestPath):]
	spaced := strings.HasSuffix(separator, ": ")
	switch {
	case strings.HasSuffix(before, "/"):
		word := before[strings.LastIndexAny(before, " \t\n\"'`=,([{")+1:]
		return spaced && strings.Contains(word, "://") ||
			separator == ": " && strings.HasPrefix(word, "/") ||
			separator == ":" && imageTag.MatchString(after)
	case strings.HasSuffix(before, "*"):
		return separator == ": " && typeName.MatchString(name)
	}
	return separator == ":" && name == "secret" && strings.HasPrefix(after, "berth-")
}

// headerEnd returns where the value of a header ends that begins a text: with its quote or bracket,
// with the quote that began on the line before it, or with the line.
func headerEnd(text, before string) int {
	if end := firstEnd(upTo(text), true); end > 0 {
		return end
	}
	line := text[:lineEnd(text)]
	if strings.Count(before, `"`)%2 == 1 {
		if quote := strings.LastIndexByte(line, '"'); quote >= 0 {
			return quote
		}
	}
	return len(line)
}

// place is one in a text, which only moves on: so each line is looked at once, however many names
// are on it.
type place struct {
	text     string
	at, line int // where it is, and where its line begins
	printed  int // where Go's printing of a map or struct begins on the line, if it is not before line
	looked   bool
}

// moveTo moves on to the name before a value.
func (p *place) moveTo(at int) {
	if end := strings.LastIndexByte(p.text[p.at:at], '\n'); end >= 0 {
		p.line, p.looked = p.at+end+1, false
	}
	p.at = at
	if p.looked {
		return
	}
	p.looked, p.printed = true, len(p.text)
	rest := p.text[p.line:]
	if m := byGo.FindStringIndex(rest[:lineEnd(rest)]); m != nil {
		p.printed = p.line + m[1]
	}
}

// maySpaces reports whether a value without quotes may have spaces: it ends with its line.
func (p *place) maySpaces(name, separator string, value int) bool {
	sign := strings.TrimSpace(separator)
	_, before := cutStamp(p.text[p.line:p.at])
	if before = strings.TrimSpace(before); before == "" || before == "export" {
		// So it is in a file of properties or variables.
		if sign == "=" && (strings.TrimRight(separator, " \t") != "=" || strings.ToUpper(name) == name) {
			return true
		}
	}
	if !strings.HasPrefix(separator, ":") || p.printed > value {
		return false
	}
	end := firstEnd(upTo(p.text[value:]), true)
	return end == 0 || value+end < len(p.text) && !strings.ContainsRune(",}", rune(p.text[value+end]))
}

// flags redacts values after a flag.
func flags(text string) string {
	var out strings.Builder
	at := 0
	for {
		m := flagged.FindStringIndex(text[at:])
		if m == nil {
			break
		}
		value := at + m[1]
		out.WriteString(text[at:value])
		at = value
		start := strings.TrimLeft(text[value:], `\`)
		inQuotes := start != "" && isQuote(start[0])
		separated := strings.ContainsAny(text[value-1:value], " \t\n,")
		if start == "" || start[0] == '-' || inQuotes && strings.HasPrefix(start[1:], "-") ||
			strings.ContainsAny(start[:1], ")]}") || !separated {
			continue
		}
		if at += valueEnd(upTo(text[value:]), false); at > value {
			out.WriteString(quoted(text[value:at]))
		}
	}
	return out.String() + text[at:]
}

var quotedValue = regexp.MustCompile("(?s)^(" + quotes + ")?.*?(" + quotes + ")?$")

// quoted returns Redacted in the quotes that value has.
func quoted(value string) string {
	m := quotedValue.FindStringSubmatch(value)
	if m == nil || m[1] == "" {
		return Redacted
	}
	return m[1] + Redacted + m[2]
}
