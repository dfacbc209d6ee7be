//go:build root

package bgpd

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-lb/berth/bgp"
)

// oldProgram builds berth-bgp with a fault that GoBGP had until 3.35 (CVE-2025-43971): an OPEN
// whose capability for a software version says that the version has length 0 ends the process.
func oldProgram(t *testing.T) string {
	t.Helper()
	run := func(command ...string) string {
		t.Helper()
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Dir = filepath.Join("..", "..")
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(command, " "), err, said.String())
		}
		return strings.TrimSpace(string(out))
	}
	const module = "github.com/osrg/gobgp/v4"
	dir := t.TempDir()
	old, program := filepath.Join(dir, "gobgp"), filepath.Join(dir, "berth-bgp")
	if err := os.CopyFS(old, os.DirFS(run("go", "list", "-m", "-f", "{{.Dir}}", module))); err != nil {
		t.Fatal(err)
	}
	replaceIn(t, filepath.Join(old, "pkg/packet/bgp/bgp.go"), map[string]string{
		"softwareVersionLen > 64 || softwareVersionLen == 0 {": "softwareVersionLen > 64 {",
		"string(v[1 : 1+c.SoftwareVersionLen])":                "string(v[1:c.SoftwareVersionLen])",
	})
	modules := filepath.Join(dir, "go.mod")
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run("go", "mod", "edit", "-replace", module+"="+old, modules)
	run("go", "build", "-modfile", modules, "-o", program, "./cmd/berth-bgp")
	return program
}

// replaceIn replaces texts in a file, each of which is there.
func replaceIn(t *testing.T, file string, by map[string]string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := string(text)
	for from, to := range by {
		if !strings.Contains(changed, from) {
			t.Fatalf("%s has no %q", file, from)
		}
		changed = strings.Replace(changed, from, to, 1)
	}
	if err := errors.Join(os.Remove(file), os.WriteFile(file, []byte(changed), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func TestRouterThatCrashesItIsLeftAlone(t *testing.T) {
	r := newRig(t, oldProgram(t))
	good, bad := newRouter(t, "127.0.0.1"), newRouter(t, "127.0.0.2", 75, 2, 0, 0)
	s := r.speaker(good.peer("good"))
	good.next().hears(t, webRoute)
	s.is("good", "established")

	s.SyncPeers([]bgp.Peer{good.peer("good"), bad.peer("bad")})
	r.await("word on the router that crashes it", func() bool {
		for _, p := range s.Status().Peers {
			if p.Name == "bad" && strings.Contains(p.LastError, "left alone until ") {
				return true
			}
		}
		return false
	})
	left := s.is("bad", "idle")
	if !strings.Contains(left.LastError, "slice bounds out of range") {
		t.Errorf("its error is %q", left.LastError)
	}
	s.is("good", "established")
	var session *session
	for session == nil || len(good.sessions) > 0 {
		session = good.next()
	}
	session.hears(t, webRoute)
	worker := r.worker()
	t.Log(left.LastError)

	// The keeper's next process knows it, too, before a speaker comes.
	r.await("file that names it", func() bool {
		text, err := os.ReadFile(filepath.Join(r.folder, "state"))
		_, about, found := strings.Cut(string(text), `"127.0.0.2":{`)
		record, _, _ := strings.Cut(about, "}")
		return err == nil && found && strings.Contains(record, `"Times":1`)
	})
	s.leave()
	for len(bad.attempts) > 0 {
		<-bad.attempts
	}
	r.kill()
	r.begin()
	good.next().hears(t, webRoute)
	s = r.speaker(good.peer("good"), bad.peer("bad"))
	s.is("good", "established")
	if again := s.is("bad", "idle"); again.LastError != left.LastError {
		t.Errorf("its error is %q with the next process", again.LastError)
	}
	if n := len(bad.attempts); n > 0 {
		t.Errorf("it was tried %d times", n)
	}
	if r.worker() == worker {
		t.Error("the worker outlived its keeper")
	}

	// A change of its BGPNeighbor has it tried again, which one crash ends.
	worker = r.worker()
	changed := bad.peer("bad")
	changed.HoldTime = 30e9
	s.SyncPeers([]bgp.Peer{good.peer("good"), changed})
	r.await("another worker", func() bool { return r.worker() != worker })
	s.is("good", "established")
}
