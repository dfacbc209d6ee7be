package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// Redacted stands where something secret was.
const Redacted = "REDACTED"

const (
	// secretWords are what names of secret things have in them.
	secretWords = `passw(?:or)?d|passphrase|secret|token|credential|api[-_.]?key|private[-_.]?key|access[-_.]?key|auth[-_.]?key|` +
		`account[-_.]?key|shared[-_.]?key|ssh[-_.]?key|signing[-_.]?key|encryption[-_.]?key|key[-_.]?data`
	// quotes may be escaped, in JSON that is text in other JSON.
	quotes = "\\\\*[\"'`]"
	// goesOn is a quote within a value: after the last one a space comes, or what ends a field.
	goesOn = "[^\\s\"'`\\\\,:;})\\]]"
)

var (
	secretName = regexp.MustCompile(
		`(?i)` + secretWords + `|(?:^|[-_.])(?:pass|pwd|auth|dsn)(?:$|[-_.])|^(?:proxy-)?authorization$`,
	)
	// secretMap is of maps with something secret in them. A key is none, and neither is its schema.
	secretMap = regexp.MustCompile(`(?i)passw(?:or)?d|passphrase|secret|token|credential`)
	// harmlessName is of fields that have the name of a Secret, or a path.
	harmlessName = regexp.MustCompile(`(?i)(?:secret|token|credential)s?[-_.]?(?:names?|namespace|ref|type|path)$`)
	secretFlag   = regexp.MustCompile(`(?i)^--?[-\w]*(?:` + secretWords + `)[-\w]*$`)

	// literal is a text in quotes, with something escaped in it.
	literal = regexp.MustCompile(`"[^"\\\n]*\\.(?:[^"\\\n]|\\.)*"`)
	// bare are secrets that are known by their form.
	bare = regexp.MustCompile(strings.Join([]string{
		`(?s)-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\z)`,
		`\bLS0tLS1CRUdJTi[\w+/=]*`,          // PEM in Base64
		`\bH4sI[A-Za-z0-9+/=_-]{12,}`,       // what is packed by gzip, in Base64: nobody sees what it is
		`\beyJ[\w-]{8,}(?:\.[\w-]*)*={0,2}`, // JSON Web Tokens, and other JSON in Base64
		`\bgh[pousr]_\w{20,}`,
		`\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`,
	}, "|"))
	// header is of HTTP.
	header = regexp.MustCompile(`(?i)\b(bearer\s+|authorization` + quotes + `?\s*[:=]\s*` + quotes +
		`?(?:[a-z]+\s+)?)[\w.~+/=-]{6,}`)
	// userinfo is the password in a URL, or a token in its place.
	userinfo = regexp.MustCompile(`(://[^\s/@:"']*:)(?:[^\s"']|["']+` + goesOn + `)*@`)
	onlyUser = regexp.MustCompile(`(://)[^\s/@:"']{8,}@`)
	// element is of XML.
	element = regexp.MustCompile(`(?i)(<[-\w:]*(?:` + secretWords + `)[-\w]*>)[^<]*`)
	// routers is how routers' configurations have a password.
	routers = regexp.MustCompile(`(?m)(\bneighbor[ \t]+\S+[ \t]+password[ \t]+)[^\n]*`)
	// named is the name before a value, which is in quotes, or ends with a space.
	named = regexp.MustCompile(`(?i)(` + quotes + `?)\b([-\w.]*(?:` + secretWords + `)[-\w.]*|` +
		`(?:[-\w.]*[-_])?(?:pass|pwd))(` + quotes + `?[ \t]*(?::=|=>|[:=])[ \t]*)`)
	// byGo is the beginning of a map or struct of Go's that is printed without quotes.
	byGo = regexp.MustCompile(`map\[|\{[A-Z]\w*:`)
	// flagged is a flag before its value, which may be the next in a list.
	flagged = regexp.MustCompile(
		`(?i)--?[-\w]*(?:` + secretWords + `)[-\w]*(?:[ \t]+|` + quotes + `[ \t]*,?[ \t]*)`)
	// assigned is an argument or a variable, whose value is all of the rest.
	assigned = regexp.MustCompile(
		`(?s)^(--?[-\w]*(?i:` + secretWords + `)[-\w]*=|[A-Z0-9_]*(?:` + strings.ToUpper(
			secretWords,
		) + `)[A-Z0-9_]*=).+$`,
	)
)

// Text returns a text, such as a log or an annotation, without what looks secret: tokens, private
// keys, passwords in URLs, and what follows a name such as password. Names of Secrets stay.
func Text(text string) string {
	if v, is := document(text); is { // such as an annotation that is a copy of an object
		if redacted, err := json.Marshal(redactor{}.value("", v)); err == nil {
			return string(redacted)
		}
	}
	text = literal.ReplaceAllStringFunc(text, literally)
	text = bare.ReplaceAllString(text, Redacted)
	text = header.ReplaceAllString(text, "${1}"+Redacted)
	text = userinfo.ReplaceAllString(text, "${1}"+Redacted+"@")
	text = onlyUser.ReplaceAllString(text, "${1}"+Redacted+"@")
	text = element.ReplaceAllString(text, "${1}"+Redacted)
	text = routers.ReplaceAllString(text, "${1}"+Redacted)
	return flags(names(yamlFields(text)))
}

// literally redacts in a text in quotes what its lines and quotes show once they are not escaped.
func literally(quoted string) string {
	text, err := strconv.Unquote(quoted)
	if err != nil && json.Unmarshal([]byte(quoted), &text) != nil {
		return quoted
	}
	redacted := Text(text)
	if redacted == text {
		return quoted
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if e.Encode(redacted) != nil {
		return `"` + Redacted + `"`
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// names redacts values after a name.
func names(text string) string {
	var out strings.Builder
	at := 0
	for {
		m := named.FindStringSubmatchIndex(text[at:])
		if m == nil {
			break
		}
		for i := range m {
			m[i] += at
		}
		name, separator, value := text[m[4]:m[5]], text[m[6]:m[7]], m[1]
		out.WriteString(text[at:value])
		at = value
		if harmlessName.MatchString(name) {
			continue
		}
		if start, slashes := opening(text, m[4]); start >= 0 && !strings.ContainsAny(separator, "\"'`") {
			at = max(value, start+quotedEnd(upTo(text[start:]), slashes))
			if quote := text[start : start+slashes+1]; strings.HasSuffix(text[value:at], quote) {
				at -= len(quote)
			}
			if at > value {
				out.WriteString(Redacted)
			}
			continue
		}
		printed := strings.HasPrefix(separator, ":") &&
			byGo.MatchString(lineBefore(text, value))
		end := firstEnd(upTo(text[value:]), true)
		spaces := (printed || separator == ":") && !(end > 0 && strings.HasPrefix(text[value+end:], ","))
		if sign := strings.TrimRight(separator, " \t"); startsLine(lineBefore(text, m[4])) {
			spaces = spaces || sign == " =" || sign == "=" && strings.ToUpper(name) == name
		}
		if at += valueEnd(upTo(text[value:]), spaces); at > value {
			out.WriteString(quoted(text[value:at]))
		}
	}
	return out.String() + text[at:]
}

// startsLine reports whether what follows this on its line begins it, as in a file of variables.
func startsLine(text string) bool {
	before := strings.TrimSpace(text)
	return before == "" || before == "export"
}

// flags redacts values after a flag.
func flags(text string) string {
	var out strings.Builder
	at := 0
	for {
		m := flagged.FindStringIndex(text[at:])
		if m == nil {
			break
		}
		value := at + m[1]
		out.WriteString(text[at:value])
		at = value
		start := strings.TrimLeft(text[value:], `\`)
		inQuotes := start != "" && isQuote(start[0])
		separated := strings.ContainsAny(text[value-1:value], " \t,")
		if start == "" || start[0] == '-' || inQuotes && strings.HasPrefix(start[1:], "-") ||
			strings.ContainsAny(start[:1], ")]}") || !separated {
			continue
		}
		if at += valueEnd(upTo(text[value:]), false); at > value {
			out.WriteString(quoted(text[value:at]))
		}
	}
	return out.String() + text[at:]
}

// document returns the object or list that a text is in JSON, if it is.
func document(text string) (v any, is bool) {
	if trimmed := strings.TrimSpace(text); !strings.HasPrefix(trimmed, "{") && !strings.HasPrefix(trimmed, "[") {
		return nil, false
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if d.Decode(&v) != nil || d.More() {
		return nil, false
	}
	return v, true
}

var quotedValue = regexp.MustCompile("(?s)^(" + quotes + ")?.*?(" + quotes + ")?$")

// quoted returns Redacted in the quotes that value has.
func quoted(value string) string {
	m := quotedValue.FindStringSubmatch(value)
	if m == nil {
		return Redacted
	}
	return m[1] + Redacted + m[2]
}

// JSON returns a document without what is secret: the data of Secrets, annotations that nobody here
// reads, what has the name of a password, and what Text takes out of each text. Of containers that
// are not Berth's, in the namespace own where it runs, only what tells a load balancer stays.
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
	foreign bool   // the object is of another, or not Berth's
	secret  bool   // what it is in has the name of something secret
}

func (r redactor) value(name string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		return r.object(name, v)
	case []any:
		secret := false // the item before is a flag whose value this is
		for i := range v {
			text, is := v[i].(string)
			if secret && is && !strings.HasPrefix(text, "-") {
				v[i] = Redacted
			} else {
				v[i] = r.value(name, v[i])
			}
			secret = is && name != "env" && secretFlag.MatchString(text)
		}
	case string:
		if v != "" && !harmlessName.MatchString(name) && (r.secret || secretName.MatchString(name)) {
			return Redacted
		}
		if m := assigned.FindStringSubmatch(v); m != nil {
			return m[1] + Redacted
		}
		return Text(v)
	}
	return v
}

func (r redactor) object(name string, o map[string]any) map[string]any {
	if metadata, ok := o["metadata"].(map[string]any); ok {
		if namespace, ok := metadata["namespace"].(string); ok && namespace != "" {
			labels, _ := metadata["labels"].(map[string]any)
			r.foreign = namespace != r.own || labels["app.kubernetes.io/name"] != "berth"
		}
	}
	if secretMap.MatchString(name) && !harmlessName.MatchString(name) && !refers(o) {
		r.secret = true
	}
	delete(o, "managedFields")
	if o["kind"] == "Secret" {
		delete(o, "data")
		delete(o, "stringData")
	}
	if value, ok := o["value"].(string); ok && name == "env" && r.secretVariable(o["name"], value) {
		o["value"] = Redacted
	}
	if name == "httpHeaders" && o["value"] != nil {
		o["value"] = Redacted
	}
	if r.foreign {
		switch name {
		case "containers", "initContainers", "ephemeralContainers":
			bareContainer(o)
		case "terminated": // its message may be the end of a log
			delete(o, "message")
		}
		if o["containers"] != nil {
			delete(o, "volumes")
		}
	}
	for key, v := range o {
		if name == "annotations" && !readAnnotation(key) {
			o[key] = Redacted
			continue
		}
		o[key] = r.value(key, v)
	}
	return o
}

// reference are the fields of what names a Secret, or a key in it.
var reference = []string{
	"name", "namespace", "key", "kind", "apiGroup", "apiVersion", "optional", "secretName", "items", "defaultMode", "mode",
	"path", "audience", "expirationSeconds",
}

// refers reports whether a map only names a Secret.
func refers(o map[string]any) bool {
	for key := range o {
		if !slices.Contains(reference, key) {
			return false
		}
	}
	return true
}

// told are the flags that tell how another load balancer runs.
var told = []string{"--lb-class", "--services", "--advertise-loadbalancer-ip"}

// bareContainer leaves in a container what tells which program it is, where it listens, and whether
// it is a load balancer.
func bareContainer(o map[string]any) {
	for key := range o {
		if !slices.Contains([]string{"name", "image", "ports", "env", "args", "command"}, key) {
			delete(o, key)
		}
	}
	for _, key := range []string{"args", "command"} {
		all, _ := o[key].([]any)
		value := false // of a flag that is told
		for i := range all {
			text, _ := all[i].(string)
			flag, _, joined := strings.Cut(text, "=")
			known := slices.Contains(told, flag)
			if !known && (!value || strings.HasPrefix(text, "-")) {
				all[i] = Redacted
			}
			value = known && !joined
		}
	}
}

// readAnnotation reports whether somebody here reads the annotation: it is Berth's, Kubernetes', or
// one by which Services speak to other load balancers.
func readAnnotation(key string) bool {
	domain, _, _ := strings.Cut(key, "/")
	switch {
	case key == corev1.LastAppliedConfigAnnotation:
		return false
	case domain == "kubernetes.io",
		strings.HasSuffix(domain, ".kubernetes.io"),
		strings.HasSuffix(domain, ".kubebuilder.io"),
		domain == v1alpha1.GroupVersion.Group,
		strings.HasSuffix(domain, "."+v1alpha1.GroupVersion.Group):
		return true
	}
	return slices.ContainsFunc([]string{
		"metallb.io", "metallb.universe.tf", "kube-vip.io", "lbipam.cilium.io", "io.cilium", "purelb.io",
	}, func(known string) bool { return domain == known })
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
