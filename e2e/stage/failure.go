//go:build linux

package stage

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Explain writes what helps to find the cause of a failure: Berth's pods and the ends of their
// logs, which are deleted with the lab. It reads files, so that it also works without an API
// server.
func (s *Stage) Explain(ctx context.Context, out io.Writer) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if pods, err := s.Kubectl(ctx, "", "get", "pods", "-A", "-o", "wide"); err != nil {
		fmt.Fprintln(out, "the pods cannot be listed:", err)
	} else {
		fmt.Fprint(out, pods)
	}
	logs, err := filepath.Glob(filepath.Join(s.LogDir(), "pods", "*", Namespace+"_*", "*", "*.log"))
	if err != nil || len(logs) == 0 {
		fmt.Fprintln(out, "Berth has no logs")
		return
	}
	for _, file := range logs {
		pod, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(filepath.Dir(filepath.Dir(file))), Namespace+"_"), "_")
		fmt.Fprintf(out, "--- the end of the log of %s\n%s", pod, lastLines(file, 8))
	}
}

func lastLines(file string, n int) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error() + "\n"
	}
	lines := strings.SplitAfter(string(text), "\n")
	var end strings.Builder
	for _, line := range lines[max(0, len(lines)-n-1):] {
		// The kubelet puts time, stream and a flag before each line.
		if fields := strings.SplitN(line, " ", 4); len(fields) == 4 {
			line = fields[3]
		}
		end.WriteString(line)
	}
	return end.String()
}
