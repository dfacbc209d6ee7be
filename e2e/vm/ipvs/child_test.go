//go:build vm

package ipvs_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/berth-lb/berth/speaker/dataplane/ipvs"
)

const childEnv = "BERTH_IPVS_TEST_TABLE"

type entry struct {
	Frontend ipvs.Frontend
	Server   ipvs.VirtualServer
}

// child runs a driver instead of the tests if the process was started for that. -1: it was not.
func child() int {
	task := os.Getenv(childEnv)
	if task == "" {
		return -1
	}
	var entries []entry
	if err := json.Unmarshal([]byte(task), &entries); err != nil {
		fmt.Println(err)
		return 1
	}
	table := ipvs.Table{}
	for _, e := range entries {
		table[e.Frontend] = e.Server
	}
	d := ipvs.New(ipvs.Config{})
	d.Sync("child", table)
	go func() {
		for seen := 0; seen < len(table); {
			if o := <-d.Observed(); o.Frontend.Port != 0 || o.Err != nil {
				fmt.Println(o)
				seen++
			}
		}
		fmt.Println("ready")
	}()
	if err := d.Run(context.Background()); err != nil {
		fmt.Println(err)
	}
	return 1
}

// spawn runs a driver in a process of its own in the director, until kill.
func (s *site) spawn(t *testing.T, table ipvs.Table) (kill func()) {
	t.Helper()
	return s.spawnFrom(t, "/proc/self/exe", table)
}

// spawnFrom is spawn with the program of these tests, of this version or another. TestUpgrade runs
// it as it is at the previous version, so the task stays as it is.
func (s *site) spawnFrom(t *testing.T, program string, table ipvs.Table) (kill func()) {
	t.Helper()
	var entries []entry
	for f, v := range table {
		entries = append(entries, entry{f, v})
	}
	task, err := json.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), childEnv+"="+string(task))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in(s.director, func() (struct{}, error) { return struct{}{}, cmd.Start() }); err != nil {
		t.Fatal(err)
	}
	kill = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(kill)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		switch line := lines.Text(); {
		case line == "ready":
			return kill
		case !strings.HasSuffix(line, "<nil>"):
			t.Fatal(line)
		}
	}
	t.Fatalf("the process ended before the kernel showed its table: %v", lines.Err())
	return nil
}
