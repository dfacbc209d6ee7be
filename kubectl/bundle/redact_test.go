package bundle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJib2IifQ.c2lnbmF0dXJl"

func TestText(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"GET /x with " + jwt + " failed", "GET /x with REDACTED failed"},
		{"Authorization: Bearer abcdef012345", "Authorization: Bearer REDACTED"},
		{`curl -H "Authorization: Basic Ym9iOmh1bnRlcjI="`, `curl -H "Authorization: Basic REDACTED"`},
		{"dial https://bob:hunter2@db.example:5432/x", "dial https://bob:REDACTED@db.example:5432/x"},
		{"password=hunter2, retry", "password=REDACTED retry"},
		{"password=hun,ter;2 next", "password=REDACTED next"},
		{`run --token "hunter 2" --x`, `run --token "REDACTED" --x`},
		{"https://bob:p@ss@db.example/x", "https://bob:REDACTED@db.example/x"},
		{"BGP_PASSWORD: correct horse battery\nnext: line", "BGP_PASSWORD: REDACTED\nnext: line"},
		{`{"level":"info","password":"hunt\"er2","n":1}`, `{"level":"info","n":1,"password":"REDACTED"}`},
		{`{"x":"{\"password\":\"hunter2\",\"a\":1}"}`, `{"x":"{\"a\":1,\"password\":\"REDACTED\"}"}`},
		{`at {"level":"info","password":"hunt\"er2","n":1}`, `at {"level":"info","password":"REDACTED","n":1}`},
		{`{\"password\":\"hunt\\\"er2\",\"a\":1}`, `{\"password\":\"REDACTED\",\"a\":1}`},
		{"apiKey: 'hunter 2' # mine", "apiKey: 'REDACTED' # mine"},
		{"run --bgp-password hunter2 --verbose", "run --bgp-password REDACTED --verbose"},
		{
			"a\n-----BEGIN RSA PRIVATE KEY-----\nMII\nabc\n-----END RSA PRIVATE KEY-----\nb",
			"a\nREDACTED\nb",
		},
		{"-----BEGIN PRIVATE KEY-----\nMII", "REDACTED"},
		{`at "-----BEGIN PRIVATE KEY-----\nMII"` + "\nnext", `at "REDACTED"` + "\nnext"},
		{"SECRET_KEY=hunter2 DB_PASS=hunter2 pwd: hunter2", "SECRET_KEY=REDACTED DB_PASS=REDACTED pwd: REDACTED"},
		{`{"Authorization":"Token hunter2hunter2"}`, `{"Authorization":"REDACTED"}`},
		{`{"tokens":["hunter2"]}`, `{"tokens":["REDACTED"]}`},
		{`["--token","hunter2"]`, `["--token","REDACTED"]`},
		{"password: |\n  hunter2\n  more\nnext: x", "password: REDACTED\n  REDACTED\nnext: x"},
		{"password:\n  hunter2", "password:\n  REDACTED"},
		{"password := hunter2", "password := REDACTED"},
		{"client-key-data: LS0tLS1CRUdJTiBSU0E=", "client-key-data: REDACTED"},
		{"DefaultEndpointsProtocol=https;AccountKey=hunter2", "DefaultEndpointsProtocol=https;AccountKey=REDACTED"},
		{"git clone https://abcdefgh0123@git.example/x", "git clone https://REDACTED@git.example/x"},
		{"postgres://bob:hun/ter2@db", "postgres://bob:REDACTED@db"},
		{"-----BEGIN PGP PRIVATE KEY BLOCK-----\nMII", "REDACTED"},
		{`password=hunt"er2 next`, `password=REDACTED next`},
		{`password="hunt"er2" next`, `password="REDACTED" next`},
		{`password: 'hunt'er2', next`, `password: 'REDACTED', next`},
		{`run --token hunt'er2 --x`, `run --token REDACTED --x`},
		{`msg="set password=hunter2" n=1`, `msg="set password=REDACTED" n=1`},
		{`at {"password":"hunter2","user":"bob"}`, `at {"password":"REDACTED","user":"bob"}`},
		{`credentials: {user: bob, value: hunter2}, next`, `credentials: REDACTED, next`},
		{`at {"credentials":{"user":{"x":"hunter2"},"y":"hunter2"},"n":1}`, `at {"credentials":REDACTED,"n":1}`},
		{`password: 'hunt '' er2' # mine`, `password: 'REDACTED' # mine`},
		{`password="hunt " er2" next`, `password="REDACTED" next`},
		{`at ["--token","hunt \" er2"]`, `at ["--token","REDACTED"]`},
		{`exec ["run" "--token=hunt \" er2" "--x"]`, `exec ["run" "--token=REDACTED"]`},
		{`at "password: |\n  hunter2\nnext: x"`, `at "password: REDACTED"`},
		{"password: |2-\n    hunt\n\n  er2\nnext: x", "password: REDACTED\n  REDACTED\nnext: x"},
		{"password: |2-\n\u2028  hunter2\nnext: x", "password: REDACTED\n  REDACTED\nnext: x"},
		{"tokens:\n- hunter2\n- hunter3\nnext: x", "tokens:\n  REDACTED\nnext: x"},
		{"password: hunter2\n  more\nnext: x", "password: REDACTED\nnext: x"},
		{"DB_PASSWORD=hunt er2\nNEXT=x", "DB_PASSWORD=REDACTED\nNEXT=x"},
		{"map[password:hunt er2 user:bob]", "map[password:REDACTED"},
		{`got {User:"bob", Password:"hunt \" er2", Zone:"a"}`, `got {User:"bob", Password:"REDACTED", Zone:"a"}`},
		{"neighbor 192.0.2.1 password hunt er2", "neighbor 192.0.2.1 password REDACTED"},
		{"<password>hunt er2</password>", "<password>REDACTED</password>"},
		{"at {\n  \"tokens\": [\n    \"hunter2\"\n  ]\n}", "at {\n  \"tokens\": REDACTED\n}"},
		// What is no secret stays.
		{"image web, digest sha256:0123456789", "image web, digest sha256:0123456789"},
		{"bypass: 3, basic settings", "bypass: 3, basic settings"},
		{"secretName: tor", "secretName: tor"},
		{`no Secret "tor" has the key password`, `no Secret "tor" has the key password`},
		{"v1 172.30.0.201 7b3f6a2c eyebright", "v1 172.30.0.201 7b3f6a2c eyebright"},
		{"http://[2001:db8::1]:7470/metrics", "http://[2001:db8::1]:7470/metrics"},
		{"user@example.com", "user@example.com"},
	} {
		if got := Text(c.text); got != c.want {
			t.Errorf("Text(%q)\n  = %q,\nnot %q", c.text, got, c.want)
		}
	}
}

// redacted is a text, and what Text leaves of it.
type redacted struct{ text, want string }

func checkText(t *testing.T, cases []redacted) {
	t.Helper()
	for _, c := range cases {
		if got := Text(c.text); got != c.want {
			t.Errorf("Text(%q)\n  = %q,\nnot %q", c.text, got, c.want)
		}
	}
}

// stay are cases of texts without a secret.
func stay(texts ...string) (cases []redacted) {
	for _, text := range texts {
		cases = append(cases, redacted{text, text})
	}
	return cases
}

// Of a header the rest of its line is secret, whatever its scheme is, or what a quote or bracket
// ends.
func TestHeaders(t *testing.T) {
	checkText(t, []redacted{
		{"map[Accept:[*/*] Authorization:[Basic dXNlcjpodW50ZXIy]]", "map[Accept:[*/*] Authorization:REDACTED]"},
		{`at {"Authorization":["Basic dXNl"]}`, `at {"Authorization":REDACTED}`},
		{`http.Header{"Authorization":[]string{"Basic dXNl"}}`, `http.Header{"Authorization":REDACTED}`},
		{
			`http.Header{"Authorization":[]string{"Basic dXNl"}, "X":[]string{"a"}}`,
			`http.Header{"Authorization":REDACTED, "X":[]string{"a"}}`,
		},
		{`Authorization: Token token="hunter2hunter2"`, "Authorization: Token REDACTED"},
		{"Authorization: ApiKey id:hunter2", "Authorization: ApiKey REDACTED"},
		{"Authorization: Other id:hunter2", "Authorization: REDACTED"},
		{
			`Authorization: Digest username="bob", realm="x", response="0123"` + "\nnext",
			"Authorization: Digest REDACTED\nnext",
		},
		{`msg="sent Authorization: Basic dXNl" n=1`, `msg="sent Authorization: Basic REDACTED" n=1`},
		{"Proxy-Authorization: Basic dXNl", "Proxy-Authorization: Basic REDACTED"},
		{"Cookie: a=b; session=hunter2\nHost: x", "Cookie: REDACTED\nHost: x"},
		{"Set-Cookie: session=hunter2; Path=/", "Set-Cookie: REDACTED"},
		{`{"headers":{"Cookie":["a=hunter2"]}}`, `{"headers":{"Cookie":["REDACTED"]}}`},
	})
}

// A secret may stand beside its name, as variables and arguments do.
func TestPairs(t *testing.T) {
	checkText(t, []redacted{
		{`at {"name":"DB_PASSWORD","value":"hunter2"}`, `at {"name":"DB_PASSWORD","value":"REDACTED"}`},
		{`at {"name": "DB_PASSWORD", "value": "hunter2"`, `at {"name": "DB_PASSWORD", "value": "REDACTED"`},
		{`{\"name\":\"DB_PASSWORD\",\"value\":\"hunter2\"}`, `{\"name\":\"DB_PASSWORD\",\"value\":\"REDACTED\"}`},
		{
			"env:\n- name: DB_PASSWORD\n  value: hunter2\n- name: X\n  value: y",
			"env:\n- name: DB_PASSWORD\n  value: REDACTED\n- name: X\n  value: y",
		},
		{"env:\n- name: DB_PASSWORD\n  value: hunt er2", "env:\n- name: DB_PASSWORD\n  value: REDACTED"},
		{
			"- name: DB_PASSWORD\n  value: |\n    hunter2\n- x",
			"- name: DB_PASSWORD\n  value: REDACTED\n    REDACTED\n- x",
		},
		{"- name: DB_PASSWORD\n  value: \"hunt er2\"\n- x", "- name: DB_PASSWORD\n  value: \"REDACTED\"\n- x"},
		{`{{Name: "DB_PASSWORD", Value: "hunter2"}}`, `{{Name: "DB_PASSWORD", Value: "REDACTED"}}`},
		{"{Name:DB_PASSWORD Value:hunter2}", "{Name:DB_PASSWORD Value:REDACTED"},
		{"args:\n- --password\n- hunter2\n- x", "args:\n- --password\n- REDACTED\n- x"},
		{"args:\n- --password\n- hunt er2\n- x", "args:\n- --password\n- REDACTED\n- x"},
		{"args:\n- --token-auth\n- --x", "args:\n- --token-auth\n- --x"},
		{"  \"--token\",\n  \"hunter2\",\n  \"x\"", "  \"--token\",\n  \"REDACTED\",\n  \"x\""},
		{`created {"kind":"Secret","data":{"key":"aHVudGVyMg=="}} again`, `created {"kind":"Secret"} again`},
		{
			`{"n":1}` + "\n" + `{"kind":"Secret","data":{"key":"aHVudGVyMg=="}}` + "\n" + `{"n":2}`,
			`{"n":1}` + "\n" + `{"kind":"Secret"}` + "\n" + `{"n":2}`,
		},
		{`{"n":1} {"kind":"Secret","data":{"key":"aHVudGVyMg=="}}`, `{"n":1} {"kind":"Secret"}`},
	})
	checkText(t, stay(
		"the Secret berth-token is missing",
		"- name: NODE_NAME\n  value: n1",
		"- name: TOKEN_PATH\n  value: /var/run/x",
		`at {"name":"NODE_NAME","value":"n1"}`,
	))
}

// Other names and forms of secrets.
func TestOtherNames(t *testing.T) {
	checkText(t, []redacted{
		{`at {"auths":{"reg.io":{"auth":"dXNl"}}}`, `at {"auths":{"reg.io":{"auth":"REDACTED"}}}`},
		{`{\"auths\":{\"reg.io\":{\"auth\":\"dXNl\"}}}`, `{\"auths\":{\"reg.io\":{\"auth\":\"REDACTED\"}}}`},
		{"DB_DSN=root:hunter2@tcp(db:3306)/db", "DB_DSN=REDACTED"},
		{"run DB_DSN=root:hunter2@tcp(db:3306)/db next", "run DB_DSN=REDACTED next"},
		{`  password "hunter2";`, `  password "REDACTED";`},
		{"username bob password hunter2", "username bob password REDACTED"},
		{"username bob privilege 15 secret 5 hunter2", "username bob privilege 15 secret REDACTED"},
		{"kubeadm join --certificate-key 0123abcd --x", "kubeadm join --certificate-key REDACTED --x"},
		{"curl -s -u bob:hunter2 https://h/", "curl -s -u REDACTED https://h/"},
		{"curl -ubob:hunter2 https://h/", "curl -uREDACTED https://h/"},
		{`exec ["curl" "-u" "bob:hunt er2" "h"]`, `exec ["curl" "-u" REDACTED "h"]`},
		{"curl --user 'bob:hunt er2' h", "curl --user REDACTED h"},
		{"wpa psk=hunter2 x", "wpa psk=REDACTED x"},
		{"wifi_psk=hunter2 x", "wifi_psk=REDACTED x"},
		{"passcode=hunter2 x", "passcode=REDACTED x"},
		{"creds=hunter2 x", "creds=REDACTED x"},
		{"jwt=hunter2 x", "jwt=REDACTED x"},
		{"GET https://h/x?a=b&sig=hunter2 200", "GET https://h/x?a=b&sig=REDACTED 200"},
		{"GET https://h/x?sig=hunter2&a=b 200", "GET https://h/x?sig=REDACTED&a=b 200"},
		{"pulls by glpat-abcdefghij0123456789 x", "pulls by REDACTED x"},
		{"posts by xoxb-0123456789-abcdef x", "posts by REDACTED x"},
		{"pulls by github_pat_abcdefghij0123456789 x", "pulls by REDACTED x"},
		{"pays by sk_live_abcdefghij0123456789 x", "pays by REDACTED x"},
		{"asks by AIzaSyA0123456789abcdefghij0123456789ab x", "asks by REDACTED x"},
		{"db.password  = hunt er2\nx", "db.password  = REDACTED\nx"},
		{"db.password\t=\thunt er2\nx", "db.password\t=\tREDACTED\nx"},
	})
}

// Lines that clusters write each day have no secret: who looks for a fault needs them.
func TestCommonLinesStay(t *testing.T) {
	checkText(t, stay(
		"Pulled image ghcr.io/x/secrets-store-csi-driver:v1.4.0 in 3.2s on node n1",
		"image docker.io/x/token-broker:2.0@sha256:abc",
		"secret:berth-hello is there, without the label app=berth: the migration would take it",
		"open /var/run/secrets/kubernetes.io/serviceaccount/token: permission denied",
		`Failed to watch *v1.Secret: failed to list *v1.Secret: Get "https://10.0.0.1:6443/api/v1/secrets": EOF`,
		"{Name:web} watch of *v1.Secret: too old resource version: 5 (7)",
		"https://10.0.0.1:6443/x?contact=a@b.c",
		"http://h:80?contact=a@b.c",
		"docker-pullable://reg.local:5000/berth@sha256:abc",
		"docker-pullable://berth-speaker@sha256:abc",
		"docker-pullable://berth:v1@sha256:abc",
		"http://[2001:db8::1]:7470/x?contact=a@b.c",
		"E1129 12:00:00.000000       1 token.go:12] it is gone",
	))
	checkText(t, []redacted{
		{"username/password: hunter2", "username/password: REDACTED"},
		{"open /etc/x/token=hunter2 now", "open /etc/x/token=REDACTED now"},
		{"example.com/token: hunter2", "example.com/token: REDACTED"},
		{`at {"example.com/token": "hunter2"}`, `at {"example.com/token": "REDACTED"}`},
		{`at {"/etc/x/token": "hunter2"}`, `at {"/etc/x/token": "REDACTED"}`},
		{"map[example.com/token:hunter2]", "map[example.com/token:REDACTED"},
		{"the token:hunter2 is old", "the token:REDACTED is old"},
		{"secret:hunter2 is there", "secret:REDACTED is there"},
		{"https://h:6443/x?u=https://bob:hunter2@db/ now", "https://h:6443/x?u=https://bob:REDACTED@db/ now"},
		{"https://bob:12345@db/ now", "https://bob:REDACTED@db/ now"},
		{"https://bob:hunter2@h:6443/x@sha256:abc", "https://bob:REDACTED@h:6443/x@sha256:abc"},
	})
}

func TestJSON(t *testing.T) {
	for _, c := range []struct{ name, document, want string }{
		{
			"the data of a Secret",
			`{"kind":"Secret","metadata":{"name":"x"},"data":{"a":"aHVudGVyMg=="},"stringData":{"a":"hunter2"}}`,
			`{"kind":"Secret","metadata":{"name":"x"}}`,
		},
		{
			"annotations and managedFields",
			`{"metadata":{"managedFields":[{}],"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}",` +
				`"example.com/password":"hunter2","example.com/url":"ftp://bob:hunter2@x","berth.dev/pool":"rack"}}}`,
			`{"metadata":{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"REDACTED",` +
				`"example.com/password":"REDACTED","example.com/url":"REDACTED","berth.dev/pool":"rack"}}}`,
		},
		{
			"of containers of others what tells a load balancer",
			`{"metadata":{"namespace":"shop"},"spec":{"volumes":[{"csi":{"volumeAttributes":{"x":"hunter2"}}}],"containers":[{"name":"c","image":"i",` +
				`"command":["redis-server","--requirepass","hunter2"],"args":["--lb-class","x","-phunter2","--services"],` +
				`"ports":[{"containerPort":80}],"livenessProbe":{"httpGet":{"httpHeaders":[{"name":"X-Api","value":"hunter2"}]}}}]},` +
				`"status":{"containerStatuses":[{"lastState":{"terminated":{"reason":"Error","message":"hunter2"}}}]}}`,
			`{"metadata":{"namespace":"shop"},"spec":{"containers":[{"name":"c","image":"i",` +
				`"command":["REDACTED","REDACTED","REDACTED"],"args":["--lb-class","x","REDACTED","--services"],` +
				`"ports":[{"containerPort":80}]}]},` +
				`"status":{"containerStatuses":[{"lastState":{"terminated":{"reason":"Error"}}}]}}`,
		},
		{
			"headers of probes",
			`{"metadata":{"namespace":"own"},"httpHeaders":[{"name":"Authorization","value":"Basic x"}]}`,
			`{"metadata":{"namespace":"own"},"httpHeaders":[{"name":"Authorization","value":"REDACTED"}]}`,
		},
		{
			"a secret after a flag without a value",
			`["--use-token-auth","--password","hunter2"]`,
			`["--use-token-auth","--password","REDACTED"]`,
		},
		{
			"variables of Berth's own Pods that look secret",
			`{"metadata":{"namespace":"own","labels":{"app.kubernetes.io/name":"berth"}},"env":[{"name":"NODE","value":"n1"},{"name":"DB_PASS","value":"hunter2"},` +
				`{"name":"KEY","valueFrom":{"secretKeyRef":{"name":"x","key":"y"}}}]}`,
			`{"metadata":{"namespace":"own","labels":{"app.kubernetes.io/name":"berth"}},"env":[{"name":"NODE","value":"n1"},{"name":"DB_PASS","value":"REDACTED"},` +
				`{"name":"KEY","valueFrom":{"secretKeyRef":{"name":"x","key":"y"}}}]}`,
		},
		{
			"all variables of others, but switches",
			`{"metadata":{"namespace":"shop"},"spec":{"metadata":{},"env":[{"name":"A","value":"1234"},{"name":"B","value":"true"}]}}`,
			`{"metadata":{"namespace":"shop"},"spec":{"metadata":{},"env":[{"name":"A","value":"REDACTED"},{"name":"B","value":"true"}]}}`,
		},
		{
			"what is in a map that is secret, but for names of Secrets",
			`{"credentials":{"user":"bob","value":["hunter2"],"in":{"x":"hunter2"},"secretName":"tor"},"passwordSecret":{"name":"tor"}}`,
			`{"credentials":{"user":"REDACTED","value":["REDACTED"],"in":{"x":"REDACTED"},"secretName":"tor"},"passwordSecret":{"name":"tor"}}`,
		},
		{
			"what others run in Berth's namespace",
			`{"metadata":{"namespace":"own","labels":{"app.kubernetes.io/component":"controller"}},` +
				`"spec":{"containers":[{"name":"c","args":["-phunter2"],"env":[{"name":"A","value":"hunter2"}]}]}}`,
			`{"metadata":{"namespace":"own","labels":{"app.kubernetes.io/component":"controller"}},` +
				`"spec":{"containers":[{"name":"c","args":["REDACTED"],"env":[{"name":"A","value":"REDACTED"}]}]}}`,
		},
		{
			"flags",
			`{"args":["--password","hunter2","--token=hunter2","--x","y","sh -c 'z --secret hunter2'"]}`,
			`{"args":["--password","REDACTED","--token=REDACTED","--x","y","sh -c 'z --secret REDACTED'"]}`,
		},
		{
			"what names a Secret stays, and so do numbers",
			`{"spec":{"authentication":{"tcpMD5":{"secretName":"tor"}},"tokens":9007199254740993,"automountServiceAccountToken":false}}`,
			`{"spec":{"authentication":{"tcpMD5":{"secretName":"tor"}},"tokens":9007199254740993,"automountServiceAccountToken":false}}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := JSON([]byte(c.document), "own")
			if err != nil {
				t.Fatal(err)
			}
			if !sameJSON(t, got, []byte(c.want)) {
				t.Errorf("got %s", got)
			}
		})
	}
	if _, err := JSON([]byte("{"), ""); err == nil {
		t.Error("half a document is none")
	}
}

// What Berth consists of passes unchanged: doctor compares it.
func TestManifestsStay(t *testing.T) {
	files, err := filepath.Glob("../../manifests/crds/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no CRDs: %v", err)
	}
	for _, file := range append(files, "../../manifests/berth.yaml") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for part := range strings.SplitSeq(string(text), "\n---\n") {
			want, err := yaml.YAMLToJSON([]byte(part))
			if err != nil {
				t.Fatal(err)
			}
			got, err := JSON(want, "berth-system")
			if err != nil {
				t.Fatal(err)
			}
			if !sameJSON(t, got, want) {
				t.Errorf("%s: %s", file, difference(string(got)))
			}
		}
	}
}

func difference(text string) string {
	i := strings.Index(text, Redacted)
	return text[max(0, i-200):min(len(text), i+100)]
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	for text, into := range map[string]*any{string(a): &x, string(b): &y} {
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if err := d.Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	if string(a) == string(b) {
		return true
	}
	return reflect.DeepEqual(x, y)
}

// Kubernetes writes the time before each line of a log: what goes on over lines does so after it.
func TestStamps(t *testing.T) {
	stamped := func(text string) string {
		return "2026-11-29T12:00:00.123456789Z " + strings.ReplaceAll(text, "\n", "\n2026-11-29T12:00:00.2Z ")
	}
	cases := []redacted{
		{"DB_PASSWORD=hunt er2\nx", "DB_PASSWORD=REDACTED\nx"},
		{"db.password = hunt er2\nx", "db.password = REDACTED\nx"},
		{"password: |\n  hunter2\n  more\nnext: x", "password: REDACTED\n  REDACTED\nnext: x"},
		{"- name: DB_PASSWORD\n  value: hunt er2\n- x", "- name: DB_PASSWORD\n  value: REDACTED\n- x"},
		{"- name: DB_PASSWORD\n  value: \"hunt er2\"\n- x", "- name: DB_PASSWORD\n  value: \"REDACTED\"\n- x"},
		{"args:\n- --password\n- hunt er2\n- x", "args:\n- --password\n- REDACTED\n- x"},
		{"args:\n- --password\n- \"hunt er2\"\n- x", "args:\n- --password\n- \"REDACTED\"\n- x"},
		{"  \"--token\",\n  \"hunter2\",\n  \"x\"", "  \"--token\",\n  \"REDACTED\",\n  \"x\""},
		{"at {\n  \"tokens\": [\n    \"hunter2\"\n  ]\n}", "at {\n  \"tokens\": REDACTED\n}"},
		{"tokens:\n" + strings.Repeat("- hunter2\n", 100) + "next: x", "tokens:\n  REDACTED\nnext: x"},
		{"auth: failed to bind", "auth: REDACTED to bind"},
	}
	checkText(t, cases)
	for i, c := range cases {
		cases[i] = redacted{stamped(c.text), stamped(c.want)}
	}
	checkText(t, cases)
}

// A value goes on over lines that say nothing secret themselves, and what is long after it stays.
func TestPartsOfText(t *testing.T) {
	items, plain := strings.Repeat("- hunter2\n", 100), strings.Repeat("level=INFO it works\n", 100)
	checkText(t, []redacted{
		{plain + "tokens:\n" + items + "next: x\n" + plain, plain + "tokens:\n  REDACTED\nnext: x\n" + plain},
		{plain + "password=\"hunt\n\n\ner2\" next\n" + plain, plain + "password=\"REDACTED\" next\n" + plain},
		{plain + "PASSWORD=hunter2", plain + "PASSWORD=REDACTED"},
		{
			plain + "-----BEGIN PRIVATE KEY-----\n" + items + "-----END PRIVATE KEY-----\n" + plain,
			plain + "REDACTED\n" + plain,
		},
	})
}

// BenchmarkText is of the log of a program that says nothing secret, and of lines that look as if
// they did.
func BenchmarkText(b *testing.B) {
	const plain = "2026-11-29T12:00:00.123456789Z time=2026-11-29T12:00:00.123Z level=INFO " +
		`msg="owns the address" service=shop/web address=192.0.2.7 node=n1 interface=eth0` + "\n"
	for name, line := range map[string]string{
		"a plain log":     plain,
		"a log with URLs": strings.Repeat(plain, 10) + "2026-11-29T12:00:00.1Z listens url=http://10.0.0.1:80/\n",
		"names":           "token: ",
		"names in quotes": `password="a `,
		"open brackets":   "token={[",
		"maps":            "map[token:x",
		"flags":           "--token ",
		"pairs":           "name: token ",
		"URLs":            "https://bob:",
		"headers":         "Cookie: ",
		"quoted headers":  `Cookie: "a" `,
		"quotes":          `password='a'' `,
		"documents":       `Secret {"a":[`,
	} {
		text := "got " + strings.Repeat(line, 210<<10/len(line))
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				Text(text)
			}
		})
	}
}
