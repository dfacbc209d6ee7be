package bundle

import (
	"regexp"
	"strings"
)

var (
	stampBefore = regexp.MustCompile(`^` + stamp)
	// yamlField is a line with a field in YAML: where it begins, its name, and the rest.
	yamlField = regexp.MustCompile(
		`(?i)^([ \t]*(?:-[ \t]+)*)(["']?` + wordName + `["']?)(:)(?:[ \t]+(.*))?$`,
	)
	// yamlName is a line with the name of something secret; its value is on the next, a yamlValue.
	yamlName = regexp.MustCompile(`(?i)^[ \t]*(?:-[ \t]+)*(?:name|key):[ \t]+["']?(` + fieldName +
		`|` + secretHeaders + `)["']?[ \t]*$`)
	yamlValue = regexp.MustCompile(`(?i)^([ \t]*)(value)(:)(?:[ \t]+(.*))?$`)
	// yamlFlag is an item that is a flag, whose value is the next: a yamlItem.
	yamlFlag = regexp.MustCompile(`(?i)^[ \t]*(?:-[ \t]+)+["']?` + flagName + `["']?[ \t]*$`)
	yamlItem = regexp.MustCompile(`^([ \t]*)(-)()[ \t]+([^-].*)$`)
	// yamlTag is a tag or an anchor before a value.
	yamlTag = regexp.MustCompile(`^(?:[!&]\S*[ \t]*)+`)
	// yamlBlock begins a value of several lines. An indentation may be given.
	yamlBlock = regexp.MustCompile(`^[|>][-+0-9]*[ \t]*(?:#.*)?$`)
)

// cutStamp cuts the time off that a line of a log begins with.
func cutStamp(line string) (time, rest string) {
	time = stampBefore.FindString(line)
	return time, line[len(time):]
}

// yamlFields redacts what YAML has without quotes or on several lines.
func yamlFields(text string) string {
	var out []string
	lines := strings.Split(text, "\n")
	times := make([]string, len(lines))
	for i, line := range lines {
		times[i], lines[i] = cutStamp(line)
	}
	for i := 0; i < len(lines); i++ {
		m := secretField(lines, i)
		if m == nil {
			out = append(out, times[i]+lines[i])
			continue
		}
		value := yamlTag.ReplaceAllString(m[4], "")
		tagged := value != m[4]
		if value != "" && !tagged && strings.ContainsAny(value[:1], "\"'`{[*") {
			out = append(out, times[i]+lines[i])
			continue
		}
		block := value == "" || yamlBlock.MatchString(value)
		next := i + 1
		for ; next < len(lines) && isBelow(lines[next], len(m[1]), value == ""); next++ {
		}
		for next > i+1 && strings.TrimSpace(lines[next-1]) == "" {
			next--
		}
		switch {
		case !block:
			out = append(out, times[i]+m[1]+m[2]+m[3]+" "+Redacted)
		case next > i+1:
			out = append(out, times[i]+lines[i], times[i+1]+strings.Repeat(" ", len(m[1])+2)+Redacted)
		default:
			out = append(out, times[i]+lines[i])
		}
		i = next - 1
	}
	return strings.Join(out, "\n")
}

// secretField returns what yamlField finds in a line that has something secret, or what yamlValue
// or yamlItem does because of the line before.
func secretField(lines []string, i int) []string {
	line := strings.TrimSuffix(lines[i], "\r")
	if m := yamlField.FindStringSubmatch(line); m != nil && !harmlessName.MatchString(strings.Trim(m[2], `"'`)) {
		return m
	}
	if i == 0 {
		return nil
	}
	before := strings.TrimSuffix(lines[i-1], "\r")
	if m := yamlValue.FindStringSubmatch(line); m != nil {
		if name := yamlName.FindStringSubmatch(before); name != nil && !harmlessName.MatchString(name[1]) {
			return m
		}
	}
	if m := yamlItem.FindStringSubmatch(line); m != nil && yamlFlag.MatchString(before) {
		return m
	}
	return nil
}

// breaks end a line in YAML, but in no other text: a value may begin with one, less indented.
const breaks = "\u0085\u2028\u2029"

// isBelow reports whether a line belongs to the field that begins in a column. The items of a list
// may begin in that column, too.
func isBelow(line string, column int, list bool) bool {
	rest := strings.TrimLeft(line, " \t")
	indented := len(line) - len(rest)
	return strings.TrimSpace(line) == "" || indented > column || rest != strings.TrimLeft(rest, breaks) ||
		list && indented == column && strings.HasPrefix(rest, "-")
}
