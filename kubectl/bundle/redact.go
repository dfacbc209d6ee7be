package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
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
	secretWords = `passw(?:or)?d|passphrase|passcode|secret|token|credential|creds|api[-_.]?key|private[-_.]?key|` +
		`access[-_.]?key|auth[-_.]?key|account[-_.]?key|shared[-_.]?key|ssh[-_.]?key|signing[-_.]?key|` +
		`encryption[-_.]?key|certificate[-_.]?key|key[-_.]?data`
	// secretParts are such names, or parts of them: within a word they mean something else.
	secretParts = `pass|pwd|auth|dsn|psk|jwt`
	// secretHeaders are those of HTTP whose value is secret up to the end of the line.
	secretHeaders = `(?:proxy-)?authorization|(?:set-)?cookie`
	// wordName is a name of something secret in a text, and fieldName any such name but for headers.
	wordName  = `[-\w.]*(?:` + secretWords + `)[-\w.]*`
	fieldName = wordName + `|(?:[-\w.]*[-_.])?(?:` + secretParts + `)`
	// flagName is such a name of a flag.
	flagName = `--?[-\w]*(?:` + secretWords + `)[-\w]*`
	// stamp is the time before a line of a log, as Kubernetes writes it.
	stamp = `\d{4}-\d\d-\d\dT[\d:.]+Z `
	// newline ends a line, and begins the next.
	newline = `[ \t]*\r?\n(?:` + stamp + `)?[ \t]*`
	// quotes may be escaped, in JSON that is text in other JSON.
	quotes = "\\\\*[\"'`]"
	// goesOn is a quote within a value: after the last one a space comes, or what ends a field.
	goesOn = "[^\\s\"'`\\\\,:;})\\]]"
)

var (
	secretName = regexp.MustCompile(
		`(?i)` + secretWords + `|(?:^|[-_.])(?:` + secretParts + `)(?:$|[-_.])|^(?:` + secretHeaders + `)$`,
	)
	// secretMap is of maps with something secret in them. A key is none, and neither is its schema.
	secretMap = regexp.MustCompile(`(?i)passw(?:or)?d|passphrase|secret|token|credential`)
	// harmlessName is of fields that have the name of a Secret, or a path, and of files with code.
	harmlessName = regexp.MustCompile(
		`(?i)(?:secret|token|credential)s?[-_.]?(?:names?|namespace|ref|type|path)$|\.go$`,
	)
	secretFlag = regexp.MustCompile(`(?i)^` + flagName + `$`)

	// literal is a text in quotes, with something escaped in it.
	literal    = regexp.MustCompile(`"[^"\\\n]*\\.(?:[^"\\\n]|\\.)*"`)
	privateKey = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----.*?` +
		`(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\z)`)
	// bare are secrets that are known by their form.
	bare = regexp.MustCompile(strings.Join([]string{
		`\bLS0tLS1CRUdJTi[\w+/=]*`,          // PEM in Base64
		`\bH4sI[A-Za-z0-9+/=_-]{12,}`,       // what is packed by gzip, in Base64: nobody sees what it is
		`\beyJ[\w-]{8,}(?:\.[\w-]*)*={0,2}`, // JSON Web Tokens, and other JSON in Base64
		`\bgh[pousr]_\w{20,}`,
		`\bgithub_pat_\w{20,}`,
		`\bglpat-[\w-]{16,}`,
		`\bxox[a-z]-[\w-]{10,}`,
		`\b[rs]k_(?:live|test)_\w{10,}`,
		`\bAIza[\w-]{30,}`,
		`\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`,
	}, "|"))
	// bearer is how HTTP and its logs have a token.
	bearer = regexp.MustCompile(`(?i)\b(bearer\s+)[\w.~+/=-]{6,}`)
	// signature is of a URL that is signed.
	signature = regexp.MustCompile(`(?i)([?&](?:sig|signature|x-(?:amz|goog)-signature)=)[^&\s"']+`)
	// curl is the user and password in its command.
	curl = regexp.MustCompile(`(\bcurl\b[^\n]*?[\s"'](?:(?:-u|--user)` + quotes + `?[ \t,=]+|-u))` +
		`(?:\\*"[^"\n]*"|\\*'[^'\n]*'|[^\s"']+)`)
	// element is of XML.
	element = regexp.MustCompile(`(?i)(<[-\w:]*(?:` + secretWords + `)[-\w]*>)[^<]*`)
	// routers is how routers' configurations have a password.
	routers = regexp.MustCompile(`(?m)(\b(?:neighbor[ \t]+\S+[ \t]+password|` +
		`username[ \t]+\S+[ \t]+(?:privilege[ \t]+\d+[ \t]+)?(?:password|secret))[ \t]+)[^\n]*`)
	// bird is how BIRD has one.
	bird = regexp.MustCompile(`(\bpassword[ \t]+")[^"\n]*"`)
	// assigned is an argument or a variable, whose value is all of the rest.
	assigned = regexp.MustCompile(
		`(?s)^((?i:` + flagName + `)=|[A-Z0-9_]*(?:` + strings.ToUpper(
			secretWords,
		) + `)[A-Z0-9_]*=).+$`,
	)
)

// Text returns a text, such as a log or an annotation, without what looks secret: tokens, private
// keys, passwords in URLs, and what follows a name such as password. Names of Secrets stay.
func Text(text string) string {
	if v, is := document(text); is { // such as an annotation that is a copy of an object
		return compact(redactor{}.value("", v))
	}
	if strings.Contains(text, "PRIVATE KEY") {
		text = literal.ReplaceAllStringFunc(text, literally) // half a key in quotes ends with them
		text = privateKey.ReplaceAllString(text, Redacted)
	}
	var out strings.Builder
	for part, suspicious := range parts(text) {
		if suspicious {
			part = lines(part)
		}
		out.WriteString(part)
	}
	return out.String()
}

// lines returns lines without what looks secret.
func lines(text string) string {
	text = literal.ReplaceAllStringFunc(text, literally)
	text = bareSecrets(text)
	text = bearer.ReplaceAllString(text, "${1}"+Redacted)
	text = signature.ReplaceAllString(text, "${1}"+Redacted)
	text = curl.ReplaceAllString(text, "${1}"+Redacted)
	text = urls(text)
	text = element.ReplaceAllString(text, "${1}"+Redacted)
	text = routers.ReplaceAllString(text, "${1}"+Redacted)
	text = bird.ReplaceAllString(text, "${1}"+Redacted+`"`)
	return flags(names(names(yamlFields(secretObjects(text)), paired), named))
}

// bareSecrets redacts what is known by its form.
func bareSecrets(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if isMarked(line) {
			line = bare.ReplaceAllString(line, Redacted)
		}
		out.WriteString(line)
	}
	return out.String()
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
	return compact(redacted)
}

// compact returns what decoder read as JSON on one line.
func compact(v any) string {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil {
		return `"` + Redacted + `"`
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// document returns the object or list that a text is in JSON, if it is.
func document(text string) (v any, is bool) {
	if trimmed := strings.TrimSpace(text); !strings.HasPrefix(trimmed, "{") && !strings.HasPrefix(trimmed, "[") {
		return nil, false
	}
	d := decoder(strings.NewReader(text))
	if d.Decode(&v) != nil || d.More() {
		return nil, false
	}
	return v, true
}

// begins is where there may be an object or list in JSON on a line.
var begins = regexp.MustCompile(`[{\[][ \t]*["{\[]`)

// mostBegins bounds at how many places of a line a document is looked for.
const mostBegins = 8

// secretObjects redacts the documents with a Secret on each line: what is secret in one has names
// that nobody knows.
func secretObjects(text string) string {
	if !strings.Contains(text, "Secret") {
		return text
	}
	var out strings.Builder
	for line := range strings.Lines(text) {
		for range mostBegins {
			at := begins.FindStringIndex(line)
			if at == nil || !strings.Contains(line, "Secret") {
				break
			}
			end := at[0] + 1
			d := decoder(strings.NewReader(line[at[0]:]))
			var v any
			if d.Decode(&v) != nil {
				out.WriteString(line[:end])
				line = line[end:]
				continue
			}
			end = at[0] + int(d.InputOffset())
			redacted := line[at[0]:end]
			if whole := compact(v); whole != compact(redactor{}.value("", v)) {
				redacted = compact(v)
			}
			out.WriteString(line[:at[0]] + redacted)
			line = line[end:]
		}
		out.WriteString(line)
	}
	return out.String()
}

// decoder returns one that leaves numbers as they are: counters are larger than float64 is exact.
func decoder(from io.Reader) *json.Decoder {
	d := json.NewDecoder(from)
	d.UseNumber()
	return d
}

// JSON returns a document without what is secret: the data of Secrets, annotations that nobody here
// reads, what has the name of a password, and what Text takes out of each text. Of containers that
// are not Berth's, in the namespace own where it runs, only what tells a load balancer stays.
// managedFields are dropped, too.
func JSON(document []byte, own string) ([]byte, error) {
	var v any
	if err := decoder(bytes.NewReader(document)).Decode(&v); err != nil {
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
	switch o["kind"] {
	case "Secret":
		delete(o, "data")
		delete(o, "stringData")
	case "SecretList": // its items do not say what they are
		delete(o, "items")
	}
	if value, ok := o["value"].(string); ok && r.secretVariable(name, o["name"], value) {
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

// secretVariable reports whether a variable of an environment, or what else has a name and a value
// in a field, is taken for a secret. Each variable in other namespaces is, but for what switches
// something on.
func (r redactor) secretVariable(field string, name any, value string) bool {
	text, _ := name.(string)
	switch {
	case value == "" || value == "true" || value == "false":
		return false
	}
	return r.foreign && field == "env" || secretName.MatchString(text)
}
