//go:build root

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

// testTables applies the objects of each script in testdata/bgp and looks at the routers' tables. A
// script is a txtar archive:
//
//	objects.yaml    applied, and removed at the end
//	frr.conf        lines of the router's BGP configuration, removed at the end
//	bird.conf       text added to the spine's configuration until the next bird.conf or the end
//	frr: COMMAND    what `vtysh -c COMMAND` on the router must come to print: JSON, in which each
//	                line "path = value" or "path ~ regular expression" holds. A path is keys and
//	                indexes with "/" between them (in a key "\/"); "#" is the length, and a missing
//	                value is "".
//	bird: COMMAND   what `birdc COMMAND` on the spine must come to print. Each line is contained in a
//	                line of the output; after "!" it is contained in none, and after "~" it is a
//	                regular expression that a line matches.
//
// Other files whose names end in .yaml are applied in their turn, after everything before them was
// seen.
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
				case f.Name == "frr.conf":
					r.configureRouter(t, lines(f.Data))
				case f.Name == "bird.conf":
					r.configureSpine(t, string(f.Data))
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
					t.Fatalf("section %q: want frr.conf, bird.conf, *.yaml, frr: COMMAND or bird: COMMAND", f.Name)
				}
			}
		})
	}
}

// configureRouter gives FRR lines of configuration, until the end of the test.
func (r *rack) configureRouter(t *testing.T, lines []string) {
	t.Helper()
	var undo []string
	for _, line := range slices.Backward(lines) {
		undo = append(undo, "no "+line)
	}
	t.Cleanup(func() {
		if err := r.ConfigureRouter(context.WithoutCancel(t.Context()), undo...); err != nil {
			t.Error(err)
		}
	})
	if err := r.ConfigureRouter(t.Context(), lines...); err != nil {
		t.Fatal(err)
	}
}

// configureSpine adds to BIRD's configuration, until the end of the test.
func (r *rack) configureSpine(t *testing.T, text string) {
	t.Helper()
	t.Cleanup(func() {
		if err := r.ConfigureSpine(context.WithoutCancel(t.Context()), ""); err != nil {
			t.Error(err)
		}
	})
	if err := r.ConfigureSpine(t.Context(), text); err != nil {
		t.Fatal(err)
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

// jsonHas returns an error for the first line that does not hold.
func jsonHas(out string, want []string) error {
	var value any
	if err := json.Unmarshal([]byte(out), &value); err != nil {
		return fmt.Errorf("no JSON: %w in %q", err, out)
	}
	for _, line := range want {
		path, text, isText := strings.Cut(line+" ", " = ")
		pattern := ""
		if !isText {
			var isPattern bool
			if path, pattern, isPattern = strings.Cut(line, " ~ "); !isPattern {
				return fmt.Errorf("line %q is not PATH = VALUE or PATH ~ PATTERN", line)
			}
		}
		text = strings.TrimSpace(text)
		keys := strings.Split(strings.ReplaceAll(path, `\/`, "\x00"), "/")
		for i := range keys {
			keys[i] = strings.ReplaceAll(keys[i], "\x00", "/")
		}
		got, err := at(value, keys)
		if err != nil {
			return fmt.Errorf("%s: %w in %s", path, err, out)
		}
		if pattern != "" {
			matched, err := regexp.MatchString(pattern, got)
			if err != nil {
				return err
			}
			if !matched {
				return fmt.Errorf("%s is %q, want a match of %s in %s", path, got, pattern, out)
			}
		} else if got != text {
			return fmt.Errorf("%s is %q, want %q in %s", path, got, text, out)
		}
	}
	return nil
}

// at returns the value at a path of JSON, as text. It is "" if the last key is absent.
func at(value any, path []string) (string, error) {
	for i, key := range path {
		switch v := value.(type) {
		case map[string]any:
			var found bool
			if value, found = v[key]; !found && i < len(path)-1 {
				return "", fmt.Errorf("there is no %q", key)
			}
		case []any:
			if key == "#" {
				return strconv.Itoa(len(v)), nil
			}
			n, err := strconv.Atoi(key)
			if err != nil || n < 0 || n >= len(v) {
				return "", fmt.Errorf("there is no element %q of %d", key, len(v))
			}
			value = v[n]
		default:
			return "", fmt.Errorf("%q is not in %v", key, v)
		}
	}
	switch v := value.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	}
	return fmt.Sprint(value), nil
}

// textHas returns an error for the first line that does not hold.
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
