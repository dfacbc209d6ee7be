// Package tutorial runs the commands of docs/guides/services.md in a lab, and compares their output
// with the page.
package tutorial

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
)

// page is a page of Markdown, as its lines.
type page struct {
	lines []string
	parts []part // in their order
}

// part is what a test does at one place of the page.
type part struct {
	first, last int // lines[first:last]; of a command, those of its output
	// A file to write, from a block of YAML whose first line names it in a comment; its name.
	file string
	// Or a command, and the host that it runs on; "" is the machine that kubectl is on.
	command, host string
}

var (
	fence  = regexp.MustCompile("^ *```(.*)$")
	prompt = regexp.MustCompile(`^([a-z]*)\$ (.*)$`)
	named  = regexp.MustCompile(`^# ([a-z-]+\.yaml)$`)
)

// read finds the parts of a page: files in blocks of yaml, and commands, with their output, in
// blocks of console.
func read(text string) (*page, error) {
	p := &page{lines: strings.Split(text, "\n")}
	language, open := "", false
	for i := 0; i < len(p.lines); i++ {
		line := p.lines[i]
		if m := fence.FindStringSubmatch(line); m != nil {
			open = !open
			language = m[1]
			continue
		}
		switch {
		case !open:
		case language == "yaml" && p.lines[i-1] == "```yaml":
			m := named.FindStringSubmatch(line)
			if m == nil {
				return nil, fmt.Errorf("line %d: the block does not begin with the name of a file, as in # web.yaml", i+1)
			}
			p.parts = append(p.parts, part{first: i, last: p.end(i), file: m[1]})
		case language == "console":
			m := prompt.FindStringSubmatch(line)
			if m == nil {
				return nil, fmt.Errorf("line %d: output without a command", i+1)
			}
			command := m[2]
			for strings.HasSuffix(command, `\`) && i+1 < len(p.lines) {
				i++
				command += "\n" + p.lines[i]
			}
			p.parts = append(p.parts, part{first: i + 1, last: p.end(i + 1), host: m[1], command: command})
			i = p.end(i+1) - 1
		}
	}
	if open {
		return nil, fmt.Errorf("the last block is not closed")
	}
	return p, nil
}

// end returns the line where output or a file that begins at a line ends.
func (p *page) end(first int) int {
	for i := first; i < len(p.lines); i++ {
		if fence.MatchString(p.lines[i]) || prompt.MatchString(p.lines[i]) {
			return i
		}
	}
	return len(p.lines)
}

func (p *page) text(of part) []string { return p.lines[of.first:of.last] }

// write writes the part's file to a folder.
func (p *page) write(of part, folder string) error {
	text := strings.Join(p.text(of), "\n") + "\n"
	return os.WriteFile(filepath.Join(folder, of.file), []byte(text), 0o600)
}

// check compares what a command printed with the page.
func (p *page) check(of part, printed string) error {
	if diff := cmp.Diff(p.text(of), steady(printed)); diff != "" {
		return fmt.Errorf("line %d: $ %s (-page +printed):\n%s", of.first, of.command, diff)
	}
	return nil
}

// rewritten returns the text of the page with what the commands printed, by the index of the part.
func (p *page) rewritten(printed map[int]string) string {
	var lines []string
	done := 0
	for i, of := range p.parts {
		if output, ok := printed[i]; ok {
			lines = append(append(lines, p.lines[done:of.first]...), steady(output)...)
			done = of.last
		}
	}
	return strings.Join(append(lines, p.lines[done:]...), "\n")
}

// volatile is what differs from run to run, and how the page has it: as its section "How to read
// this page" says.
var volatile = []struct {
	pattern *regexp.Regexp
	with    string
}{
	// ClusterIPs, and addresses of Pods; .1 is the node's own in the network of its Pods.
	{regexp.MustCompile(`\b10\.96\.\d+\.\d+\b`), "10.96.…"},
	{regexp.MustCompile(`\bfd00:96::[0-9a-f]+\b`), "fd00:96::…"},
	{regexp.MustCompile(`\b10\.244\.(\d)\.([2-9]|\d{2,3})\b`), "10.244.$1.…"},
	{regexp.MustCompile(`\bfd00:244:(\d)::([2-9a-f]|[0-9a-f]{2,4})\b`), "fd00:244:$1::…"},
	// Ports that the cluster or a kernel chose. NodePorts that a user chose are below 30086.
	{regexp.MustCompile(`:(3008[6-9]|3009\d|30[1-9]\d\d|3[1-9]\d{3}|[456]\d{4})\b`), ":…"},
	// The ends of names: of a Deployment's Pods, and of an EndpointSlice.
	{regexp.MustCompile(`-[0-9a-f]{8,10}-[a-z0-9]{5}\b`), "-…"},
	{regexp.MustCompile(`-[bcdfghjklmnpqrstvwxz2456789]{5}\b`), "-…"},
	// Ages and other durations.
	{regexp.MustCompile(`\b(\d+[dhm])?\d+(d|h|m|s|ms)\b`), "…"},
}

// steady returns the lines of an output with … for what is volatile, and with tables laid out for
// that.
func steady(output string) []string {
	output = strings.TrimRight(output, "\n")
	if output == "" {
		return []string{}
	}
	for _, v := range volatile {
		output = v.pattern.ReplaceAllString(output, v.with)
	}
	lines := strings.Split(output, "\n")
	for i := 0; i < len(lines); i++ {
		if !header.MatchString(lines[i]) {
			continue
		}
		end := len(lines)
		if blank := slices.Index(lines[i:], ""); blank >= 0 {
			end = i + blank
		}
		align(lines[i:end])
		i = end
	}
	return lines
}

var (
	header = regexp.MustCompile(`^[A-Z][A-Z0-9() -]*  +[A-Z][A-Z0-9() -]*$`)
	gap    = regexp.MustCompile(` {2,}`)
)

// align has the columns of a table three spaces apart.
func align(lines []string) {
	var widths []int
	rows := make([][]string, len(lines))
	for i, line := range lines {
		rows[i] = gap.Split(strings.TrimRight(line, " "), -1)
		for column, cell := range rows[i] {
			if column == len(widths) {
				widths = append(widths, 0)
			}
			widths[column] = max(widths[column], len([]rune(cell)))
		}
	}
	for i, row := range rows {
		var line strings.Builder
		for column, cell := range row {
			fmt.Fprintf(&line, "%-*s   ", widths[column], cell)
		}
		lines[i] = strings.TrimRight(line.String(), " ")
	}
}
