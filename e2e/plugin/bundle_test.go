//go:build root

package plugin

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/kubectl/view"
	"github.com/berth-lb/berth/kubectl/why"
)

// contents returns the files of an archive, by name.
func contents(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(h.Name, "berth-bundle/")] = string(text)
	}
}

// A bundle of a real cluster has none of its secrets, and commands say by it what they say by the
// cluster.
func TestBundle(t *testing.T) {
	ctx := t.Context()
	const hidden = "hunter2hunter2"
	expose(t, "bundled")
	for _, change := range []func(context.Context) error{
		kubectl("create", "secret", "generic", "bundled", "-n", "berth-system", "--from-literal=password="+hidden),
		kubectl("annotate", "service", "bundled", "-n", web.Namespace, "example.com/password="+hidden,
			`kubectl.kubernetes.io/last-applied-configuration={"stringData":{"x":"`+hidden+`"}}`),
	} {
		if err := change(ctx); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := kubectl("delete", "secret", "bundled", "-n", "berth-system")(context.Background()); err != nil {
			t.Error(err)
		}
	})
	file := filepath.Join(t.TempDir(), "b.tar.gz")
	if r := berth(t, "bundle", "-f", file); r.code != 0 {
		t.Fatalf("bundle: %+v", r)
	}
	secrets := []string{hidden, base64.StdEncoding.EncodeToString([]byte(hidden))}
	list, err := scene.Kubernetes.CoreV1().Secrets("berth-system").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list.Items {
		for _, value := range s.Data {
			secrets = append(secrets, string(value), base64.StdEncoding.EncodeToString(value), hex.EncodeToString(value))
		}
	}
	if len(secrets) < 6 {
		t.Errorf("there are too few secrets to look for: %d", len(secrets))
	}
	files := contents(t, file)
	for name, text := range files {
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s has a secret", name)
			}
		}
		if strings.Contains(text, "managedFields") {
			t.Errorf("%s has managedFields", name)
		}
	}
	for _, part := range []string{
		"logs/berth-speaker-", "logs/berth-controller-", "metrics/berth-speaker-", "status.txt", "doctor.txt",
	} {
		found := false
		for name, text := range files {
			found = found || strings.HasPrefix(name, part) && len(text) > 0
		}
		if !found {
			t.Errorf("it has no %s; errors: %s", part, files["errors.txt"])
		}
	}
	var live, saved why.Report
	berthJSON(t, &live, "why", "bundled", "-n", web.Namespace)
	berthJSON(t, &saved, "why", "bundled", "-n", web.Namespace, "--bundle", file)
	if live.Verdict != saved.Verdict || len(live.Steps) != len(saved.Steps) {
		t.Errorf("why says %+v, and of the bundle %+v", live, saved)
	}
	var status view.Status
	if r := berthJSON(t, &status, "status", "--check", "--bundle", file); r.code != 0 || status.Speakers.Are != 2 {
		t.Errorf("status of the bundle: %+v", status)
	}
	if r := berth(t, "doctor", "-o", "wide", "--bundle", file); r.out != files["doctor.txt"] {
		t.Errorf("doctor says\n%s%s\nand in the bundle\n%s", r.out, r.err, files["doctor.txt"])
	}
	refused(t, "--watch: leave it out", "status", "--watch", "--bundle", file)
}

// seen is an entry of kubectl berth trace.
type seen struct{ By, What, Address, From, Node, Detail string }

// A trace has the question of a client with the answer, and the move of the address with its
// reason.
func TestTrace(t *testing.T) {
	ctx := t.Context()
	address := expose(t, "traced")
	owner, err := scene.Owner(ctx, netip.MustParseAddr(address)) // the client asks
	if err != nil {
		t.Fatal(err)
	}
	traced := func() (all []seen) {
		berthJSON(t, &all, "trace", "traced", "-n", web.Namespace)
		return all
	}
	has := func(what string, is func(seen) bool) func(context.Context) error {
		return func(context.Context) error {
			all := traced()
			for _, e := range all {
				if is(e) {
					return nil
				}
			}
			return fmt.Errorf("the trace has no %s: %+v", what, all)
		}
	}
	eventually(t, has("answer", func(e seen) bool {
		return e.What == "answered" && e.By == owner && e.Address == address && e.From != "" && e.From != "0.0.0.0"
	}))
	eventually(t, has("session", func(e seen) bool {
		return e.What == "session" && e.Node == "tor" && e.Detail == "established"
	}))
	t.Cleanup(func() {
		if err := kubectl("label", "node", owner, v1alpha1.ExcludeLabel+"-")(context.Background()); err != nil {
			t.Error(err)
		}
	})
	act(t, "drain", owner, "--wait")
	eventually(t, has("loss", func(e seen) bool {
		return e.What == "address lost" && e.By == owner && e.Address == address && e.Detail != ""
	}))
	eventually(t, has("gain", func(e seen) bool {
		return e.What == "address gained" && e.By != owner && e.Address == address && e.Detail != ""
	}))
	act(t, "drain", owner, "--undo", "--wait")
	r := berth(t, "trace", "traced", "-n", web.Namespace)
	if r.code != 0 || !strings.Contains(r.out, "asks who has it: answered") {
		t.Errorf("trace: %+v", r)
	}
	refused(t, "you have no right to get services", "trace", "traced", "-n", web.Namespace, "--as=nobody")
	bind(t, "tracer", "berth-view")
	eventually(t, func(context.Context) error { // the API server knows of the role soon
		r := berth(t, "trace", "traced", "-n", web.Namespace, "--as=tracer")
		if r.code != 2 || !strings.Contains(r.err, `{apiGroups: [""], resources: [pods/exec], verbs: [create]}`) {
			return fmt.Errorf("without the right to run anything: %+v", r)
		}
		return nil
	})
}
