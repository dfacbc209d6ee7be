package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// findingsIn returns what check finds in files, as lines.
func findingsIn(t *testing.T, files map[string]string, exempt ...string) []string {
	t.Helper()
	words, err := parseWords(wordsFile)
	if err != nil {
		t.Fatal(err)
	}
	tree := fstest.MapFS{}
	for name, text := range files {
		tree[name] = &fstest.MapFile{Data: []byte(text)}
	}
	findings, err := check(tree, words, exempt, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range findings {
		got = append(got, fmt.Sprintf("%s:%d: %s", f.file, f.line, f.text))
	}
	return got
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestWords(t *testing.T) {
	tests := map[string]string{ // the text, and the word in it that is found
		"f tells whether it is up":             "tells whether",
		"I cannot tell whether it is up":       "",
		"it has the key looked\n at again":     "looked at again",
		"is no more":                           "no more",
		"needs no more than one":               "",
		"gives no more addresses":              "",
		"the groups of which it tells":         "of which",
		"two pools, of which one is full":      "",
		"most of which are idle":               "",
		"%q is no prefix":                      "%q is no prefix",
		"%s is no longer there":                "",
		"there is no address":                  "",
		"the Behaviour of NEIGHBOURS":          "Behaviour, NEIGHBOURS",
		"it serialises, it will exercise":      "serialises",
		"recommend an amendment":               "",
		"Mend it, and be it late: do it anew.": "anew, be it, Mend",
	}
	for text, want := range tests {
		t.Run(text, func(t *testing.T) {
			var got []string
			for _, line := range findingsIn(t, map[string]string{"page.md": text}) {
				got = append(got, strings.Split(line, `"`)[1])
			}
			slices.SortFunc(got, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
			expect(t, []string{strings.Join(got, ", ")}, want)
		})
	}
}

func TestWordsOfGo(t *testing.T) {
	got := findingsIn(t, map[string]string{"a.go": `package a

// meanwhile has nothing looked
// at again, since identifiers are not prose.
func meanwhile(anew int) string {
	return "mend " + "the %q is no prefix" /* thereby */
}

var text = ` + "`a\nneighbour`" + `
`})
	expect(t, got,
		`a.go:3: "looked at again": write "requeued", "checked again"`,
		`a.go:3: "meanwhile": write "for now", "in the meantime", or nothing`,
		`a.go:6: "thereby": write "so", or a sentence of its own`,
		`a.go:6: "mend": write "fix"`,
		`a.go:6: "%q is no prefix": write "is not a valid ..."`,
		`a.go:10: "neighbour": write neighbor`,
	)
}

func TestColumns(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	tests := map[string]struct {
		line string
		want string
	}{
		"a comment of 100 columns": {
			line: "// " + long(97),
		},
		"a comment of 101 columns": {
			line: "// " + long(98),
			want: "a.go:3: a comment ends by column 100",
		},
		"a comment with a URL": {
			line: "// https://example.com/" + long(98),
		},
		"a directive": {
			line: "// +kubebuilder:validation:" + long(98),
		},
		"code of 120 columns": {
			line: "var " + long(112) + " int",
		},
		"code of 121 columns": {
			line: "var " + long(113) + " int",
			want: "a.go:3: a line ends by column 120",
		},
		"code that ends with a comment": {
			line: "var x int // " + long(108),
			want: "a.go:3: a line ends by column 120",
		},
		"code around a long string": {
			line: `var x, y = "` + long(120) + `", "` + long(50) + `"`,
		},
		"many strings": {
			line: `var x, y, z = "` + long(60) + `", "` + long(60) + `", "` + long(60) + `"`,
			want: "a.go:3: a line ends by column 120",
		},
		"a raw string": {
			line: "var x = `\n" + long(121) + "\n// " + long(121) + "`",
		},
		"characters, not bytes": {
			line: "// " + strings.Repeat("é", 97),
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var want []string
			if test.want != "" {
				want = []string{test.want}
			}
			expect(t, findingsIn(t, map[string]string{"a.go": "package a\n\n" + test.line + "\n"}), want...)
		})
	}
}

func TestWhatIsChecked(t *testing.T) {
	const bad = "anew\n"
	got := findingsIn(t, map[string]string{
		"Makefile":               bad,
		"tools/script":           bad,
		".ci/run":                bad,
		"a/b.yaml":               bad,
		"a/image.png":            bad,
		"a/program":              "\x00" + bad,
		"a/testdata/x.md":        bad,
		".cache/x.md":            bad,
		"bin/x.md":               bad,
		"later/x.md":             bad,
		"later/y.md":             "[nowhere](z.md)",
		"laterthan/x.md":         bad,
		"one.md":                 bad,
		"manifests/crds/a.yaml":  "metadata:\n  annotations:\n    controller-gen.kubebuilder.io/version: v1\n" + bad,
		"config/generated.go":    "// Code generated by hand. DO NOT EDIT.\n\npackage config\n\n// anew\n",
		"docs/reference/api.md":  "# API reference\n\nGenerated from `config` by `make generate`.\n" + bad,
		"docs/reference/here.md": bad,
	}, "later", "one.md")
	again := `: "anew": write "again", or name what happens`
	expect(t, got,
		".ci/run:1"+again,
		"Makefile:1"+again,
		"a/b.yaml:1"+again,
		"docs/reference/here.md:1"+again,
		"later/y.md:1: link z.md: there is no later/z.md",
		"laterthan/x.md:1"+again,
		"tools/script:1"+again,
	)
}

func TestLinks(t *testing.T) {
	got := findingsIn(t, map[string]string{
		"docs/page.md": `# The page

[a](other.md) [b](other.md#two-words) [c](#the-page) [d](../README.md "title") [e](sub/) ![f](none.png)
[g](other.md#none) [h](none.md#x) [i](https://example.com/x#y) [j](mailto:a@example.com) [k](ftp://x)
[l](/README.md) [m](../../README.md) [n]() [o](https:///x) [p](#none) <a href="none.html">q</a>
` + "`[r](none.md)`" + `

    kubectl get x

` + "```\n[s](none.md)\n```" + `
[t]: none.md
`,
		"docs/sub/x.md": "",
		"docs/other.md": "# Two *words*\n",
		"README.md":     "",
		"main.go":       "package main\n\n// See docs/other.md#two-words, docs/none.md, x/docs/none.md.\n",
		"script":        "# docs/other.md#none\n",
	})
	expect(t, got,
		"docs/page.md:3: link none.png: there is no docs/none.png",
		"docs/page.md:4: link other.md#none: docs/other.md has no heading or anchor #none",
		"docs/page.md:4: link none.md#x: there is no docs/none.md",
		"docs/page.md:4: link ftp://x: is not a URL of a page",
		"docs/page.md:5: link /README.md: is not relative",
		"docs/page.md:5: link ../../README.md: leads out of the tree",
		"docs/page.md:5: link : has no target",
		"docs/page.md:5: link https:///x: is not a URL of a page",
		"docs/page.md:5: link #none: docs/page.md has no heading or anchor #none",
		"docs/page.md:13: link none.md: there is no docs/none.md",
		"docs/page.md:5: link none.html: there is no docs/none.html",
		"main.go:3: link docs/none.md: there is no docs/none.md",
		"script:1: link docs/other.md#none: docs/other.md has no heading or anchor #none",
	)
}

func TestAnchors(t *testing.T) {
	page := `# API reference
## ` + "`berth.dev/Announced`" + `: Who answers? ##
## [Linked](x.md) title
## Twice
## Twice
## Twice_1 – Größe
<a id="set"></a> <h2 name="named">
#no heading
` + "```\n# in a fence\n<a id=\"fenced\">\n```\n"
	want := []string{
		"api-reference", "berthdevannounced-who-answers", "linked-title", "named", "set", "twice", "twice-1",
		"twice_1--größe",
	}
	var got []string
	for a := range anchors(page) {
		got = append(got, a)
	}
	slices.Sort(got)
	expect(t, got, want...)
}

func TestParseWordsRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"# comment\nanew -> again": `words.txt:2: there is no => in "anew -> again"`,
		"a( => b":                  "words.txt:1: error parsing regexp",
	} {
		if _, err := parseWords(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}
