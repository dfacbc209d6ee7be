//go:build root

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// testTables applies the objects of each script in testdata/bgp and looks at the routers' tables. A script is
// a txtar archive:
//
//	objects.yaml                  applied, and removed at the end
//	frr: COMMAND                  what `vtysh -c COMMAND` on the router must come to print: JSON, in which each
//	                              line "path = value" holds; a path is keys and indexes with "/" between (in a key
//	                              "\/"), and "#" is the length
//	bird: COMMAND                 what `birdc COMMAND` on the spine must come to print: each line is part of a line
//	                              of it, or after "!" of none, or after "~" a regular expression that one matches
//
// Other files whose name ends in .yaml are applied when it is their turn, after what stands before them was seen.
func testTables(t *testing.T, r *rack) {
	scripts, err := filepath.Glob("testdata/bgp/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("scripts %v, %v", scripts, err)
	}
	for _, path := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range archive.Files {
				router, command, isCheck := strings.Cut(f.Name, ": ")
				if len(lines(f.Data)) == 0 {
					t.Fatalf("section %q says nothing", f.Name)
				}
				switch {
				case strings.HasSuffix(f.Name, ".yaml"):
					r.apply(t, string(f.Data))
				case isCheck && router == "frr":
					eventually(t, func(ctx context.Context) error {
						out, err := r.Vtysh(ctx, command)
						return errors.Join(err, jsonHas(out, lines(f.Data)))
					})
				case isCheck && router == "bird":
					eventually(t, func(ctx context.Context) error {
						out, err := r.Birdc(ctx, command)
						return errors.Join(err, textHas(out, lines(f.Data)))
					})
				default:
					t.Fatalf("section %q: want *.yaml, frr: COMMAND or bird: COMMAND", f.Name)
				}
			}
		})
	}
}

func lines(data []byte) []string {
	var found []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line != "" {
			found = append(found, line)
		}
	}
	return found
}

// jsonHas tells which of the lines "path = value" does not hold.
func jsonHas(out string, want []string) error {
	var value any
	if err := json.Unmarshal([]byte(out), &value); err != nil {
		return fmt.Errorf("no JSON: %w in %q", err, out)
	}
	for _, line := range want {
		path, text, ok := strings.Cut(line+" ", " = ")
		if !ok {
			return fmt.Errorf("line %q is not PATH = VALUE", line)
		}
		text = strings.TrimSpace(text)
		keys := strings.Split(strings.ReplaceAll(path, `\/`, "\x00"), "/")
		for i := range keys {
			keys[i] = strings.ReplaceAll(keys[i], "\x00", "/")
		}
		if got := at(value, keys); got != text {
			return fmt.Errorf("%s is %q, want %q in %s", path, got, text, out)
		}
	}
	return nil
}

// at returns what is at a path of JSON, as text; "" if there is nothing.
func at(value any, path []string) string {
	for _, key := range path {
		switch v := value.(type) {
		case map[string]any:
			value = v[key]
		case []any:
			if key == "#" {
				return strconv.Itoa(len(v))
			}
			i, err := strconv.Atoi(key)
			if err != nil || i < 0 || i >= len(v) {
				return ""
			}
			value = v[i]
		default:
			return ""
		}
	}
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return fmt.Sprint(value)
}

// textHas tells which of the lines does not hold.
func textHas(out string, want []string) error {
	for _, line := range want {
		if pattern, ok := strings.CutPrefix(line, "~"); ok {
			if matched, err := regexp.MatchString(strings.TrimSpace(pattern), out); err != nil || !matched {
				return errors.Join(err, fmt.Errorf("%q, in %s", line, out))
			}
			continue
		}
		text, absent := strings.CutPrefix(line, "!")
		if strings.Contains(out, strings.TrimSpace(text)) == absent {
			return fmt.Errorf("%q, in %s", line, out)
		}
	}
	return nil
}
