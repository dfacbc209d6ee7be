package tutorial

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sample = "# Title\n\n" +
	"```yaml\n# web.yaml\nkind: Service\n```\n\n" +
	"```console\n$ kubectl get service web \\\n    -o wide\nNAME   CLUSTER-IP   AGE\nweb    10.96.…      …\n" +
	"client$ curl -s http://172.30.0.200/\nweb-1\n$ true\n```\n\n" +
	"```sh\nmake\n```\n"

func sampled(t *testing.T) *page {
	t.Helper()
	p, err := read(sample)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAPageHasFilesAndCommands(t *testing.T) {
	p := sampled(t)
	want := []part{
		{first: 3, last: 5, file: "web.yaml"},
		{first: 10, last: 12, command: "kubectl get service web \\\n    -o wide"},
		{first: 13, last: 14, command: "curl -s http://172.30.0.200/", host: "client"},
		{first: 15, last: 15, command: "true"},
	}
	if diff := cmp.Diff(want, p.parts, cmp.AllowUnexported(part{})); diff != "" {
		t.Error(diff)
	}
	dir := t.TempDir()
	if err := p.write(p.parts[0], dir); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "web.yaml")); string(text) != "# web.yaml\nkind: Service\n" {
		t.Errorf("the file is %q, %v", text, err)
	}
}

func TestAPageWithMistakesIsRefused(t *testing.T) {
	for _, text := range []string{
		"```yaml\nkind: Service\n```",
		"```console\noutput\n```",
		"```console\n$ true",
	} {
		if _, err := read(text); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}

// Whatever of an output is not volatile must be in the page, and nothing else.
func TestAWrongOutputIsNoticed(t *testing.T) {
	p := sampled(t)
	const right = "NAME   CLUSTER-IP       AGE\nweb    10.96.130.201    2m3s\n"
	for _, tt := range []struct {
		printed string
		ok      bool
	}{
		{right, true},
		{strings.ReplaceAll(right, "10.96.130.201 ", "10.96.1.2 "), true},
		{strings.ReplaceAll(right, "web", "wbe"), false},
		{strings.ReplaceAll(right, "10.96.", "10.97."), false},
		{strings.ReplaceAll(right, "2m3s", "<none>"), false},
		{right + "shop   10.96.130.202    2m3s\n", false},
		{"NAME   CLUSTER-IP       AGE\n", false},
		{"Warning: deprecated\n" + right, false},
		{"", false},
	} {
		if err := p.check(p.parts[1], tt.printed); (err == nil) != tt.ok {
			t.Errorf("%q: %v", tt.printed, err)
		}
	}
	if err := p.check(p.parts[2], "web-2"); err == nil || !strings.HasPrefix(err.Error(), "line 13: $ curl") {
		t.Errorf("the error is %v, want line and command in it", err)
	}
	if err := p.check(p.parts[3], "something"); err == nil {
		t.Error("output of a command that has none in the page is not noticed")
	}
}

func TestAPageIsRewritten(t *testing.T) {
	p := sampled(t)
	got := p.rewritten(map[int]string{1: "error: no\n", 2: "web-2\nweb-3", 3: ""})
	want := strings.NewReplacer(
		"NAME   CLUSTER-IP   AGE\nweb    10.96.…      …\n", "error: no\n", "\nweb-1\n", "\nweb-2\nweb-3\n",
	).Replace(sample)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsVolatile(t *testing.T) {
	for printed, want := range map[string]string{
		"10.244.1.5:43210 10.244.1.1:43210":         "10.244.1.…:… 10.244.1.1:…",
		"10.244.1.14, fd00:244:1::5, fd00:244:2::1": "10.244.1.…, fd00:244:1::…, fd00:244:2::1",
		"80:31674/TCP,81:30010/TCP":                 "80:…/TCP,81:30010/TCP",
		"172.30.0.200 172.30.0.11:8080":             "172.30.0.200 172.30.0.11:8080",
		"berth-controller-8c6f87c9c-9kfmc leads":    "berth-controller-… leads",
		"web-headless web-x7k2p web-1":              "web-headless web-… web-1",
		"created 8m13s ago, for 300ms, since 3h":    "created … ago, for …, since …",
		"fd00:96::1a2b fd00:30::200":                "fd00:96::… fd00:30::200",
	} {
		if got := strings.Join(steady(printed), "\n"); got != want {
			t.Errorf("%s: %s, want %s", printed, got, want)
		}
	}
}

// The page itself has what the test of the whole tutorial needs.
func TestThePageIsRead(t *testing.T) {
	text, err := os.ReadFile("../../docs/guides/services.md")
	if err != nil {
		t.Fatal(err)
	}
	p, err := read(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.parts) < 50 {
		t.Errorf("%d files and commands, want the whole tutorial", len(p.parts))
	}
	for _, of := range p.parts {
		if of.file != "" {
			continue
		}
		lines := p.text(of)
		if diff := cmp.Diff(lines, steady(strings.Join(lines, "\n"))); diff != "" {
			t.Errorf("line %d: no output can be as this (-page +possible):\n%s", of.first+1, diff)
		}
	}
}
