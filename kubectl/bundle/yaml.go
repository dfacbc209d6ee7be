package bundle

import (
	"regexp"
	"strings"
)

var (
	// yamlField is a line with a field in YAML: where it begins, its name, and the rest.
	yamlField = regexp.MustCompile(
		`(?i)^([ \t]*(?:-[ \t]+)*)(["']?(?:` + fieldName + `)["']?)(:)(?:[ \t]+(.*))?$`,
	)
	// yamlName is a line with the name of something secret, whose value is on the next: a yamlValue.
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

// yamlFields redacts what YAML has without quotes or on several lines.
func yamlFields(text string) string {
	var out []string
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		m := secretField(lines, i)
		if m == nil {
			out = append(out, lines[i])
			continue
		}
		value := yamlTag.ReplaceAllString(m[4], "")
		tagged := value != m[4]
		if value != "" && !tagged && strings.ContainsAny(value[:1], "\"'`{[*") {
			out = append(out, lines[i])
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
			out = append(out, m[1]+m[2]+m[3]+" "+Redacted)
		case next > i+1:
			out = append(out, lines[i], strings.Repeat(" ", len(m[1])+2)+Redacted)
		default:
			out = append(out, lines[i])
		}
		i = next - 1
	}
	return strings.Join(out, "\n")
}

// secretField returns what yamlField finds in a line that has something secret, or what another does
// because of the line before.
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

// isBelow reports whether a line belongs to the field that begins in a column. The items of a list
// may begin in that column, too.
func isBelow(line string, column int, list bool) bool {
	indented := len(line) - len(strings.TrimLeft(line, " \t"))
	return strings.TrimSpace(line) == "" || indented > column ||
		list && indented == column && strings.HasPrefix(line[indented:], "-")
}
