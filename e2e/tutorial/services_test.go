//go:build release

package tutorial

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/stock"
)

var rewrite = flag.Bool("rewrite", false, "write what the commands print into the page")

const (
	// patience is for what takes a moment on an idle machine, on a very busy one.
	patience = 30 * time.Second
	// settled is for how long an output must be the same, to be written into the page.
	settled = 2 * time.Second
)

// TestServices runs the tutorial from its first command to its last. With BERTH_LAB it does so in
// a lab that is up and has had no Services.
func TestServices(t *testing.T) {
	const path = "../../docs/guides/services.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := read(string(text))
	if err != nil {
		t.Fatal(err)
	}
	r := newReader(t)
	printed := map[int]string{}
	for i, of := range p.parts {
		if of.file != "" {
			err = p.write(of, r.folder)
		} else {
			printed[i], err = r.follow(t.Context(), p, of)
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err) // the commands that follow depend on this one
		}
	}
	if *rewrite {
		if err := os.WriteFile(path, []byte(p.rewritten(printed)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// reader does what a reader of the page does.
type reader struct {
	*stage.Stage
	folder string   // where the files are
	env    []string // in which kubectl, its plugin and the kubeconfig are found
}

// newReader returns a reader of whom the page expects what it says under "What you need".
func newReader(t *testing.T) *reader {
	t.Helper()
	ctx := t.Context()
	l, err := lab.Open(os.Getenv("BERTH_LAB"))
	if os.Getenv("BERTH_LAB") == "" {
		l, err = lab.Up(ctx, lab.Options{Name: "tutorial", Nodes: 2, DualStack: true, DNS: true, Log: t.Output()})
		if err == nil {
			t.Cleanup(func() {
				if err := l.Down(context.Background()); err != nil {
					t.Error(err)
				}
			})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	r := &reader{folder: t.TempDir()}
	if r.Stage, err = stage.New(l, true); err != nil {
		t.Fatal(err)
	}
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	programs := t.TempDir()
	for name, binary := range map[string]string{"kubectl": "kube", "kubectl-berth": "kubectl-berth"} {
		if err := os.Symlink(folder.Bin(binary), filepath.Join(programs, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.env = append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"), "KUBECONFIG="+r.Kubeconfig())
	for _, step := range []func(context.Context) error{
		r.Install,
		func(ctx context.Context) error { return r.LoadImage(ctx, folder.Agnhost()) },
		func(ctx context.Context) error { return r.LoadCompany(ctx, stock.Traefik) },
		func(ctx context.Context) error {
			return r.tag(ctx, stock.Traefik.Image(), "docker.io/library/traefik:v3.6.1")
		},
		func(ctx context.Context) error { return r.AwaitSpeakers(ctx, false) },
	} {
		if err := step(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// tag gives an image the name that the page has for it.
func (r *reader) tag(ctx context.Context, image, name string) error {
	for _, node := range r.Nodes() {
		out, err := r.Exec(ctx, node, "ctr", "-n", "k8s.io", "images", "tag", "--force", image, name).CombinedOutput()
		if err != nil {
			return errors.New(string(out))
		}
	}
	return nil
}

// changes matches commands that are not to be repeated.
var changes = regexp.MustCompile(`^kubectl (-n \S+ )?(apply|create|delete|label|patch|run|scale|wait)\b`)

// follow runs a command until it prints what the page has, or once, if it changes something. It
// returns what it printed; when the page is rewritten, once that has settled.
func (r *reader) follow(ctx context.Context, p *page, of part) (printed string, err error) {
	if changes.MatchString(of.command) {
		printed = r.run(ctx, of)
		if *rewrite {
			return printed, nil
		}
		return printed, p.check(of, printed)
	}
	var before string
	var since time.Time
	err = stage.Eventually(ctx, patience, func(ctx context.Context) error {
		printed = r.run(ctx, of)
		if ctx.Err() != nil {
			return ctx.Err() // the command was stopped
		}
		err := p.check(of, printed)
		if err == nil || !*rewrite {
			return err
		}
		if err.Error() != before {
			before, since = err.Error(), time.Now()
		}
		if time.Since(since) < settled {
			return errors.New("it changes still")
		}
		return nil
	})
	return printed, err
}

// run returns what a command prints, on both outputs.
func (r *reader) run(ctx context.Context, of part) string {
	var out bytes.Buffer
	if of.host != "" {
		cmd := r.Exec(ctx, of.host, "bash", "-c", of.command)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil && out.Len() == 0 {
			return err.Error()
		}
		return out.String()
	}
	cmd := exec.CommandContext(ctx, "bash", "-c", of.command)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = r.folder, r.env, &out, &out
	err := r.In(lab.ControlPlane, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil && out.Len() == 0 {
		return err.Error()
	}
	return out.String()
}
