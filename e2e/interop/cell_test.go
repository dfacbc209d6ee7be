//go:build release

package interop

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berth-lb/berth/e2e/stock"
	"github.com/berth-lb/berth/internal/version"
)

var record = flag.Bool("record", false, "write results.json, from which docs/reference/interop.md is made")

// cellEnv marks the process of a cell, and names script and daemon.
const cellEnv = "BERTH_INTEROP_CELL"

func TestMain(m *testing.M) {
	cell := os.Getenv(cellEnv)
	if cell == "" {
		os.Exit(m.Run())
	}
	folder, err := stock.Find()
	if err == nil {
		path, daemon, _ := strings.Cut(cell, " ")
		err = RunCell(context.Background(), folder, path, daemon)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// inItsProcess runs a cell in a process of its own, and returns what it says if it fails.
func inItsProcess(path, daemon string) error {
	runtime.LockOSThread() // Pdeathsig follows the thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), cellEnv+"="+path+" "+daemon)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return errors.Join(err, errors.New(strings.TrimSpace(string(out))))
	}
	return nil
}

// TestInterop runs every script in testdata with every daemon.
func TestInterop(t *testing.T) {
	folder, err := stock.Find()
	if err != nil {
		t.Fatal(err)
	}
	if err := folder.FetchRouters(t.Context(), os.Stderr); err != nil {
		t.Fatal(err)
	}
	results := Results{
		Berth: version.Number(), Tested: time.Now().UTC().Format(time.DateOnly), Daemons: map[string]string{},
	}
	for daemon, name := range map[string]string{
		"frr": "frr", "bird": "bird2", "gobgp": "gobgpd", "exabgp": "exabgp", "openbgpd": "openbgpd",
	} {
		if results.Daemons[daemon], err = folder.PackageVersion(name); err != nil {
			t.Fatal(err)
		}
	}
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("scripts %v, %v", paths, err)
	}
	var mu sync.Mutex
	t.Run("scripts", func(t *testing.T) {
		for i, path := range paths {
			script, err := Parse(path)
			if err != nil {
				t.Fatal(err)
			}
			digest, err := Digest(path)
			if err != nil {
				t.Fatal(err)
			}
			results.Scripts = append(results.Scripts, Result{
				Name: script.Name, Title: script.Title, Fields: script.Fields, Digest: digest, Cells: map[string]Outcome{},
			})
			for _, daemon := range Daemons {
				outcome := Outcome{Works: true}
				reason, unsupported := script.Unsupported[daemon]
				refusal := script.Refused[daemon]
				if unsupported {
					outcome = Outcome{Reason: reason, Refused: refusal.Says, Seen: script.Runs(daemon)}
				}
				t.Run(script.Name+"/"+daemon, func(t *testing.T) {
					t.Parallel()
					if script.Runs(daemon) {
						if err := inItsProcess(path, daemon); err != nil {
							t.Fatal(err)
						}
					}
					mu.Lock()
					defer mu.Unlock()
					results.Scripts[i].Cells[daemon] = outcome
				})
			}
		}
	})
	if *record && !t.Failed() {
		if err := results.Write(ResultsFile); err != nil {
			t.Fatal(err)
		}
	}
}
