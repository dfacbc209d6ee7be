// Command minors writes the table of Kubernetes' versions into a page, from what the tests on them
// recorded (make test-minors).
//
// Usage: minors RESULTS PAGE
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: minors RESULTS PAGE")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "minors:", err)
		os.Exit(1)
	}
}

func run(results, page string) error {
	recorded, err := os.ReadFile(results)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	rows, err := table(recorded)
	if err != nil {
		return fmt.Errorf("%s: %w", results, err)
	}
	written, err := replace(string(text), rows)
	if err != nil {
		return fmt.Errorf("%s: %w", page, err)
	}
	return os.WriteFile(page, []byte(written), 0o644)
}

// result is what e2e/cmd/minors recorded of a version.
type result struct {
	Kubernetes string
	Berth      string
	Tested     string
	Passed     int
	Failed     []string
}

// table is the table of these results, the newest version first.
func table(recorded []byte) (string, error) {
	var results []result
	if err := json.Unmarshal(recorded, &results); err != nil {
		return "", err
	}
	var out strings.Builder
	out.WriteString("| Kubernetes | tests that passed | that failed | Berth | on |\n|---|---|---|---|---|\n")
	for _, r := range slices.Backward(results) {
		if r.Tested == "" {
			fmt.Fprintf(&out, "| %s | not tested yet | | | |\n", r.Kubernetes)
			continue
		}
		failed := "none"
		if len(r.Failed) > 0 {
			failed = strings.Join(r.Failed, ", ")
		}
		fmt.Fprintf(&out, "| %s | %d | %s | %s | %s |\n", r.Kubernetes, r.Passed, failed, r.Berth, r.Tested)
	}
	return out.String(), nil
}

const (
	begin = "<!-- The table is generated (make generate) from what make test-minors recorded. -->\n"
	end   = "<!-- End of the table. -->\n"
)

// replace puts a table between the marks of a page.
func replace(page, table string) (string, error) {
	before, rest, ok := strings.Cut(page, begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		return "", errors.New("the marks of the table are missing")
	}
	return before + begin + "\n" + table + "\n" + end + after, nil
}
