package bundle

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	goyaml "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"
)

// A secret does not get into the archive, whatever characters it has, in any form in which programs
// write one after its name.
func TestSecretsInAnyForm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range 25 {
		s := newSecret(random)
		for form, text := range s.forms() {
			for name, content := range map[string]string{
				"text":                form + ".txt",
				"a document":          form + ".json",
				"a text in a text":    form + "-quoted.txt",
				"a log with times":    form + "-times.txt",
				"a record of a log":   form + "-record.txt",
				"a document in a log": form + "-nested.txt",
			} {
				within := text
				switch name {
				case "a document":
					within = jsonOf(map[string]any{"message": text})
				case "a text in a text":
					if strings.Contains(text, "\n") || strings.HasPrefix(form, "line ") {
						continue // of a value in no quotes nothing says where it ends there
					}
					within = "before\nE1129 12:00:00 it failed: " + strconv.Quote(text) + " again\nafter"
				case "a log with times":
					const now = "2026-11-29T12:00:00.123456789Z "
					within = now + strings.ReplaceAll(text, "\n", "\n"+now)
				case "a record of a log":
					within = "before\n" + text + "\nafter"
				case "a document in a log":
					if strings.HasPrefix(form, "line ") {
						continue
					}
					within = "before\nE1129 12:00:00 " + jsonOf(map[string]any{"message": text, "n": 1}) + "\nafter"
				}
				b := New("berth-system")
				b.Add(content, []byte(within))
				if left := s.in(string(b.files[content])); left != "" {
					t.Errorf("%q is left of the secret %q as %s in %s:\n%s\nof\n%s",
						left, s.text, form, name, b.files[content], within)
				}
			}
		}
		if t.Failed() {
			return
		}
	}
}

// secret is words, by which one sees what is left of it, with something between them.
type secret struct {
	text  string
	words []string
}

func newSecret(random *rand.Rand) secret {
	between := []string{
		" ", `"`, "'", ` "`, `" `, ` " `, ` ' `, `' `, ` '`, "''", ` '' `, `""`,
		`\`, ` \ `, `\\`, `\"`, `\' `, ` \" `, "\n", "\n\n",
		"\n  ", "\t", "é", " ☂ ", "\u2028", "=", " = ", ": ", ":", ", ", "},", " } ", "]", "[ ", "{",
		"#", " # ", "%20", "@", "/", "&", "$(x)",
		"`", " ` ", "<", "; ", "|", " | ", "\x00", "\x7f",
		"--", "!", "*",
	}
	var s secret
	for i := range 2 + random.IntN(4) {
		word := []byte{}
		for range 6 {
			word = append(word, "bghjkmpqvwxz"[random.IntN(12)])
		}
		s.words = append(s.words, string(word))
		if i > 0 {
			s.text += between[random.IntN(len(between))]
		}
		s.text += string(word)
	}
	switch random.IntN(6) { // at an end, too
	case 0:
		s.text += between[random.IntN(len(between))]
	case 1:
		// What begins with a hyphen is the next flag in a list of arguments.
		s.text = strings.TrimLeft(between[random.IntN(len(between))], "-") + s.text
	}
	return s
}

// in returns what a text has of the secret.
func (s secret) in(text string) string {
	for _, word := range s.words {
		if strings.Contains(text, word) {
			return word
		}
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(s.text))
	for i := 0; i+8 <= len(encoded); i += 4 {
		if strings.Contains(text, encoded[i:i+8]) {
			return encoded[i : i+8]
		}
	}
	return ""
}

func jsonOf(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}

// forms are texts with the secret as programs write it. Those named line are of a value in no
// quotes, which a line ends.
func (s secret) forms() map[string]string {
	type fields struct{ User, Password, Host string }
	const user = "bob"
	at := url.URL{Scheme: "https", User: url.UserPassword(user, s.text), Host: "h:1"}
	document := map[string]any{"user": user, "password": s.text, "zone": "a"}
	indented, _ := json.MarshalIndent(map[string]any{"a": map[string]any{"credentials": map[string]any{
		"user": user, "value": s.text,
	}, "tokens": []any{"x", s.text}}}, "", "  ")
	asYAML, _ := yaml.Marshal(map[string]any{"a": []any{document}, "token": s.text, "tokens": []any{s.text, "x"}})
	byGo, _ := goyaml.Marshal(map[string]any{"a": []any{document}, "token": s.text, "tokens": []any{s.text, "x"}})
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+s.text))
	arguments := map[string]any{"args": []string{"run", "--password", s.text, "--x"}}
	asLines, _ := json.MarshalIndent(arguments, "", "  ")
	asItems, _ := yaml.Marshal(arguments)
	variables := []struct{ Name, Value string }{{"USER", user}, {"DB_PASSWORD", s.text}, {"ZONE", "a"}}
	asVariables, _ := goyaml.Marshal(map[string]any{"env": variables})
	inYAML, _ := yaml.Marshal(map[string]any{"config": string(asYAML), "n": 1})
	forms := map[string]string{
		"json":                 "at " + jsonOf(document),
		"json lines":           jsonOf(document) + "\n" + jsonOf(document),
		"json in json":         "at " + jsonOf(map[string]any{"m": jsonOf(document)}),
		"json in json in json": "at " + jsonOf(map[string]any{"m": jsonOf(map[string]any{"m": jsonOf(document)})}),
		"json of a flag":       "at " + jsonOf([]string{"run", "--password", s.text, "--x"}),
		"indented json":        "at " + string(indented) + "\nend",
		"map in json":          "at " + jsonOf(map[string]any{"credentials": document, "n": 1}),
		"yaml":                 string(asYAML),
		"yaml of Go":           string(byGo),
		"yaml in yaml":         string(inYAML),
		"yaml, one quote":      "password: '" + strings.ReplaceAll(s.text, "'", "''") + "'\nnext: x",
		"yaml, flow":           "at {user: bob, password: " + strconv.Quote(s.text) + ", zone: a}",
		"quoted":               fmt.Sprintf("user=%q password=%q zone=a", user, s.text),
		"quoted, := ":          fmt.Sprintf("password := %q // x", s.text),
		"quoted, backquotes":   fmt.Sprintf("user=%#q password=%#q zone=a", user, s.text),
		"struct":               fmt.Sprintf("got %#v now", fields{user, s.text, "x"}),
		"flags":                fmt.Sprintf("exec %q", []string{"run", "--password", s.text, "--x"}),
		"flag":                 fmt.Sprintf("exec %q", []string{"run", "--password=" + s.text, "--x"}),
		"url":                  "dial " + at.String() + "/x",
		"query": "GET https://h/x?" + url.Values{
			"password": {s.text},
			"user":     {user},
		}.Encode() + " HTTP/1.1",
		"base64":               "password=" + base64.StdEncoding.EncodeToString([]byte(s.text)) + " user=bob",
		"base64 in json":       "at " + jsonOf(map[string]any{"password": []byte(s.text), "user": user}),
		"basic authentication": "Authorization: " + basic,
		"headers":              fmt.Sprintf("got %v", http.Header{"Accept": {"*/*"}, "Authorization": {basic}}),
		"headers of Go":        fmt.Sprintf("got %#v", http.Header{"Accept": {"*/*"}, "Authorization": {basic}}),
		"headers in json":      "at " + jsonOf(http.Header{"Accept": {"*/*"}, "Authorization": {basic}}),
		"indented arguments":   "at " + string(asLines) + "\nend",
		"arguments in yaml":    string(asItems),
		"variables":            fmt.Sprintf("got %#v", variables),
		"variables in json":    "at " + jsonOf(variables),
		"variables in yaml":    string(asVariables),
	}
	if !strings.ContainsAny(s.text, "\x00") { // no argument has one
		one := "'" + strings.ReplaceAll(s.text, "'", `'\''`) + "'"
		two := "'" + strings.ReplaceAll(s.text, "'", `'"'"'`) + "'"
		forms["shell"] = "run --password " + one + " --x"
		forms["shell, ="] = "run --password=" + one + " --x"
		forms["shell, other quotes"] = "export DB_PASSWORD=" + two + "; run"
		forms["shell, two quotes"] = `DB_PASSWORD="` + strings.NewReplacer(
			`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(s.text) + `" run`
	}
	if !strings.ContainsAny(s.text, "\n\x00") {
		forms["line of an environment"] = "HOME=/\nDB_PASSWORD=" + s.text + "\nUSER=bob"
		forms["line of properties"] = "user = bob\ndb.password = " + s.text + "\nzone = a"
		forms["line of FRR"] = "router bgp 1\n neighbor 192.0.2.1 password " + s.text + "\n!"
	}
	if !strings.ContainsAny(s.text, "\n\x00") && !strings.ContainsAny(strings.TrimSpace(s.text)[:1], "=\"'`{[") {
		// Else nobody can tell the beginning from a quote or bracket around all.
		forms["line of a map"] = fmt.Sprintf("got %v", map[string]string{"password": s.text})
		forms["line of variables"] = fmt.Sprintf("got %+v", variables)
		forms["line of a struct"] = fmt.Sprintf("got %+v", fields{"", s.text, ""})
	}
	return forms
}
