//go:build root || release

// Package plugin tests kubectl berth on the lab, where Berth is installed as a user installs it.
package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
	"github.com/berth-lb/berth/e2e/stock"
)

// patience is the limit for what takes a moment on an idle machine, and much longer on a busy one.
const patience = 60 * time.Second

var (
	scene *stage.Stage                                  // of all tests of the package
	web   = stage.App{Namespace: "plugin", Name: "web"} // one Pod on every node
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run brings up a lab of two nodes and a router that speaks BGP, with Berth on it. With BERTH_LAB
// it uses a running lab that has all that, and leaves it running.
func run(m *testing.M) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var l *lab.Lab
	var err error
	name := os.Getenv("BERTH_LAB")
	if name != "" {
		l, err = lab.Open(name)
	} else {
		l, err = lab.Up(ctx, lab.Options{Name: "plugin", Nodes: 2, Router: "frr", DualStack: true, Log: os.Stderr})
		if err == nil {
			defer func() {
				if err := l.Down(context.WithoutCancel(ctx)); err != nil {
					fmt.Fprintln(os.Stderr, "lab down:", err)
				}
			}()
		}
	}
	if err == nil {
		scene, err = stage.New(l, true)
	}
	if err == nil {
		err = prepare(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func prepare(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		scene.Install,
		scene.Configure,
		func(ctx context.Context) error { return scene.Deploy(ctx, web) },
		func(ctx context.Context) error { return scene.AwaitSpeakers(ctx, true) },
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// result is what a run of the plugin wrote, and its exit code.
type result struct {
	out, err string
	code     int
}

// berth runs the plugin as a user does, with the lab's kubeconfig.
func berth(t *testing.T, args ...string) result {
	t.Helper()
	return berthWith(t, scene.Kubeconfig(), args...)
}

// berthWith is berth with another kubeconfig.
func berthWith(t *testing.T, kubeconfig string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, folder.Bin("kubectl-berth"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	// It runs in the network where the API server is reached, and sees this process's files.
	err = scene.In(lab.ControlPlane, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{out: out.String(), err: errOut.String(), code: cmd.ProcessState.ExitCode()}
}

// berthJSON runs the plugin with -o json, and reads what it wrote.
func berthJSON(t *testing.T, found any, args ...string) result {
	t.Helper()
	r := berth(t, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(r.out), found); err != nil {
		t.Fatalf("kubectl berth %v: exit code %d, %v\n%s%s", args, r.code, err, r.out, r.err)
	}
	return r
}

// eventually tries until there is no error.
func eventually(t *testing.T, condition func(context.Context) error) {
	t.Helper()
	if err := stage.Eventually(t.Context(), patience, condition); err != nil {
		t.Fatal(err)
	}
}

func TestVersion(t *testing.T) {
	var info struct{ Version string }
	if r := berthJSON(t, &info, "version"); r.code != 0 || info.Version == "" {
		t.Errorf("version: %+v", r)
	}
	if r := berth(t, "version", "-o", "xml"); r.code != 2 ||
		r.err != "error: --output xml: is not a format; write table, wide, json or yaml\n" {
		t.Errorf("version -o xml: %+v", r)
	}
}
