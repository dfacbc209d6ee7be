package main

import (
	"slices"
	"strings"
	"testing"
)

const house = "testdata/house"

func TestReport(t *testing.T) {
	var out strings.Builder
	if err := run([]string{"-C", house, "-functions", "2"}, &out); err != nil {
		t.Fatal(err)
	}
	want := `PACKAGE     FILES  LINES  CIRCLES
.           4      31     3
room        2      7      -
2 packages  6      38     

CIRCLE IN  SIZE  FILES
.          3     color.go door.go wall.go

LINES  FUNCTION      FILE
6      (*door).open  door.go:7
1      mix           color.go:7
5 functions, median 1 lines
`
	got := out.String()
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestLimits(t *testing.T) {
	tests := map[string]struct {
		flags []string
		want  []string // lines of the error
	}{
		"met": {
			flags: []string{"-max-files", "4", "-max-circle", "3"},
		},
		"too many files": {
			flags: []string{"-max-files", "3"},
			want:  []string{"package . has 4 files; the limit is 3"},
		},
		"one package may have more": {
			flags: []string{"-max-files", "1", "-max-files-of", ".=4"},
			want:  []string{"package room has 2 files; the limit is 1"},
		},
		"too large a circle": {
			flags: []string{"-max-circle", "2"},
			want:  []string{"package . has a circle of 3 files; the limit is 2: color.go, door.go, wall.go"},
		},
		"a limit for no package": {
			flags: []string{"-max-files-of", "attic=2"},
			want:  []string{"-max-files-of: there is no package attic"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			var got []string
			if err := run(append([]string{"-q", "-C", house}, test.flags...), &out); err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
			if out.Len() > 0 {
				t.Errorf("-q printed:\n%s", out.String())
			}
		})
	}
}

func TestCircles(t *testing.T) {
	needs := map[string]map[string]bool{
		"a": {"b": true, "a": true},
		"b": {"c": true, "generated": true},
		"c": {"b": true, "d": true},
		"d": {"e": true},
		"e": {"f": true},
		"f": {"d": true},
	}
	want := [][]string{{"d", "e", "f"}, {"b", "c"}}
	got := circles([]string{"a", "b", "c", "d", "e", "f"}, needs)
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("got %v, want %v", got, want)
	}
}
