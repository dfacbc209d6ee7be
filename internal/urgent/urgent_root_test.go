//go:build root

package urgent

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// partVariable says which part a process of the tests plays.
const partVariable = "BERTH_TEST_URGENT"

func TestMain(m *testing.M) {
	switch os.Getenv(partVariable) {
	case "ask":
		got, reason := Ask()
		fmt.Println(got, reason)
		fmt.Println(policies())
	case "spin":
		spin()
	default:
		os.Exit(m.Run())
	}
}

// policies returns the policies of all threads, also of those that are made now.
func policies() (all []uint32) {
	var ready, end sync.WaitGroup
	end.Add(1)
	defer end.Done()
	for range 16 {
		ready.Add(1)
		go func() {
			runtime.LockOSThread()
			ready.Done()
			end.Wait()
		}()
	}
	ready.Wait()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		panic(err)
	}
	for _, entry := range threads {
		thread, err := strconv.Atoi(entry.Name())
		if err != nil {
			panic(err)
		}
		has, err := unix.SchedGetAttr(thread, 0)
		if err != nil {
			panic(err)
		}
		all = append(all, has.Policy)
	}
	return all
}

// spin never pauses, and ends once it has left the real-time class.
func spin() {
	go Keep(context.Background(), slog.New(slog.NewTextHandler(os.Stdout, nil)))
	for was := false; ; {
		has, err := unix.SchedGetAttr(0, 0)
		switch {
		case err != nil:
			panic(err)
		case has.Policy == unix.SCHED_RR:
			was = true
		case was:
			return
		}
	}
}

// play runs this test as a process that plays a part.
func play(t *testing.T, part string, prefix ...string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := slices.Concat(prefix, []string{self})
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), partVariable+"="+part)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v: %s", argv, err, stderr.Bytes())
	}
	return string(out)
}

// granted reports whether the kernel grants the real-time class here: where control groups are of
// version 1 and have a bound of it, it may not. Then the process says so, and has another.
func granted(t *testing.T) bool {
	t.Helper()
	refused := exec.Command("chrt", "--rr", strconv.Itoa(lowest), "true").Run()
	if refused == nil {
		return true
	}
	got := play(t, "ask")
	if !strings.HasPrefix(got, string(Brief)+" ") && !strings.HasPrefix(got, string(Usual)+" ") {
		t.Errorf("where the real-time class is refused (%v), got %q", refused, got)
	}
	return false
}

func TestEveryThreadIsUrgent(t *testing.T) {
	if !granted(t) {
		return
	}
	got := play(t, "ask")
	class, rest, _ := strings.Cut(got, "\n")
	if class != "real-time <nil>" {
		t.Errorf("got %q", class)
	}
	for _, policy := range strings.Fields(strings.Trim(strings.TrimSpace(rest), "[]")) {
		if policy != strconv.Itoa(unix.SCHED_RR) {
			t.Errorf("threads have the policies %s, want only %d", rest, unix.SCHED_RR)
			break
		}
	}
	if n := len(strings.Fields(rest)); n < 16 {
		t.Errorf("%d threads", n)
	}
}

func TestWithoutTheRight(t *testing.T) {
	got := play(t, "ask", "setpriv", "--bounding-set=-sys_nice", "--")
	if !strings.HasPrefix(got, string(Brief)+" ") && !strings.HasPrefix(got, string(Usual)+" ") ||
		!strings.Contains(got, "operation not permitted") {
		t.Errorf("got %q", got)
	}
	_, rest, _ := strings.Cut(got, "\n")
	if strings.Trim(rest, "[0 ]\n") != "" {
		t.Errorf("threads have the policies %s", rest)
	}
}

// A process that holds on to the processor gives up the class, and so locks nobody out.
func TestWhoSpinsIsNotUrgent(t *testing.T) {
	if !granted(t) {
		return
	}
	got := strings.Split(strings.TrimSpace(play(t, "spin")), "\n")
	if len(got) == 0 || !strings.Contains(got[0], "class=real-time") {
		t.Errorf("it logged %q", got)
	}
}
