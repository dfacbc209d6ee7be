package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// Redacted stands where something secret was.
const Redacted = "REDACTED"

const (
	// secretWords are what names of secret things have in them.
	secretWords = `passw(?:or)?d|passphrase|secret|token|credential|api[-_.]?key|private[-_.]?key|access[-_.]?key|auth[-_.]?key`
	// quotes may be escaped, in JSON that is text in other JSON.
	quotes = `\\*["']`
	// inQuotes is text in quotes, which may be escaped once, or more often, or lack their end.
	inQuotes = `"(?:[^"\\\n]|\\.)*"?|` +
		`\\"(?:[^"\\\n]|\\\\\\"|\\[^"\n])*(?:\\")?|` +
		`\\+"(?:[^"\\\n]|\\+[^"\\\n])*\\*"?|` +
		`'[^'\n]*'?`
)

var (
	secretName = regexp.MustCompile(`(?i)` + secretWords + `|(?:^|[-_.])(?:pass|pwd|auth|dsn)(?:$|[-_.])`)
	// harmlessName is of fields that have the name of a Secret, or a path.
	harmlessName = regexp.MustCompile(`(?i)(?:secret|token|credential)s?[-_.]?(?:names?|namespace|ref|type|path)$`)
	secretFlag   = regexp.MustCompile(`(?i)^--?[-\w]*(?:` + secretWords + `)[-\w]*$`)

	// bare are secrets that are known by their form.
	bare = regexp.MustCompile(strings.Join([]string{
		`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)`,
		`\beyJ[\w-]{8,}(?:\.[\w-]*)*={0,2}`, // JSON Web Tokens, and other JSON in Base64
		`\bgh[pousr]_\w{20,}`,
		`\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`,
	}, "|"))
	// header is of HTTP.
	header = regexp.MustCompile(`(?i)\b(bearer\s+|authorization` + quotes + `?\s*[:=]\s*` + quotes +
		`?(?:[a-z]+\s+)?)[\w.~+/=-]{6,}`)
	// userinfo is the password in a URL.
	userinfo = regexp.MustCompile(`(://[^\s/@:"']*:)[^\s/"']*@`)
	// named is a value after its name, in quotes or up to the next space.
	named = regexp.MustCompile(`(?i)(` + quotes + `?)\b([-\w.]*(?:` + secretWords + `)[-\w.]*|` +
		`(?:[-\w.]*[-_])?(?:pass|pwd))(` + quotes + `?[ \t]*[:=][ \t]*)(` + inQuotes + `|[^\s"']+)`)
	// flagged is the value of a flag, after a space.
	flagged = regexp.MustCompile(
		`(?i)(--?[-\w]*(?:` + secretWords + `)[-\w]*[ \t]+)(` + inQuotes + `|[^\s"'-][^\s"']*)`)
	// line is a secret in YAML that has spaces and no quotes.
	line = regexp.MustCompile(`(?im)^([ \t-]*)([-\w.]*(?:` + secretWords + `)[-\w.]*)(:[ \t]+)([^\s"'{\[|>&*][^\n]*)$`)
)

// Text returns a text, such as a log or an annotation, without what looks secret: tokens, private
// keys, passwords in URLs, and what follows a name such as password. Names of Secrets stay.
func Text(text string) string {
	text = bare.ReplaceAllString(text, Redacted)
	text = header.ReplaceAllString(text, "${1}"+Redacted)
	text = userinfo.ReplaceAllString(text, "${1}"+Redacted+"@")
	text = line.ReplaceAllStringFunc(text, func(s string) string {
		m := line.FindStringSubmatch(s)
		if harmlessName.MatchString(m[2]) {
			return s
		}
		return m[1] + m[2] + m[3] + Redacted
	})
	text = named.ReplaceAllStringFunc(text, func(s string) string {
		m := named.FindStringSubmatch(s)
		if harmlessName.MatchString(m[2]) {
			return s
		}
		return m[1] + m[2] + m[3] + quoted(m[4])
	})
	return flagged.ReplaceAllStringFunc(text, func(s string) string {
		m := flagged.FindStringSubmatch(s)
		return m[1] + quoted(m[2])
	})
}

var quotedValue = regexp.MustCompile(`^(\\*["'])?.*?(\\*["'])?$`)

// quoted returns Redacted in the quotes that value has.
func quoted(value string) string {
	m := quotedValue.FindStringSubmatch(value)
	if m == nil {
		return Redacted
	}
	return m[1] + Redacted + m[2]
}

// JSON returns a document without what is secret: the data of Secrets, annotations that are copies
// of objects, what has the name of a password, and what Text takes out of each text. Of variables
// of Pods the names stay: outside of the namespace own, where Berth runs, nothing else.
// managedFields are dropped, too.
func JSON(document []byte, own string) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber() // counters are larger than float64 is exact
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("is not JSON: %w", err)
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(redactor{own: own}.value("", v))
	return out.Bytes(), err
}

// redactor walks down a document.
type redactor struct {
	own     string // Berth's namespace
	foreign bool   // the object is of another
}

func (r redactor) value(name string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		return r.object(name, v)
	case []any:
		for i := range v {
			if flag, ok := before(v, i).(string); ok && name != "env" && secretFlag.MatchString(flag) {
				v[i] = Redacted
			} else {
				v[i] = r.value(name, v[i])
			}
		}
	case string:
		if v != "" && secretName.MatchString(name) && !harmlessName.MatchString(name) {
			return Redacted
		}
		return Text(v)
	}
	return v
}

func before(all []any, i int) any {
	if i == 0 {
		return nil
	}
	return all[i-1]
}

func (r redactor) object(name string, o map[string]any) map[string]any {
	if metadata, ok := o["metadata"].(map[string]any); ok {
		if namespace, ok := metadata["namespace"].(string); ok && namespace != "" {
			r.foreign = namespace != r.own
		}
	}
	delete(o, "managedFields")
	if o["kind"] == "Secret" {
		delete(o, "data")
		delete(o, "stringData")
	}
	if value, ok := o["value"].(string); ok && name == "env" && r.secretVariable(o["name"], value) {
		o["value"] = Redacted
	}
	for key, v := range o {
		if strings.HasSuffix(key, "last-applied-configuration") {
			o[key] = Redacted
			continue
		}
		o[key] = r.value(key, v)
	}
	return o
}

// secretVariable reports whether a variable of an environment is taken for a secret. In other
// namespaces each is, but for what switches something on.
func (r redactor) secretVariable(name any, value string) bool {
	text, _ := name.(string)
	switch {
	case value == "" || value == "true" || value == "false":
		return false
	}
	return r.foreign || secretName.MatchString(text)
}
