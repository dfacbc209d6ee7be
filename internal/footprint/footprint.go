// Package footprint makes the memory of a process small again after its start.
package footprint

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// Trim gives back to the kernel what a process needed only to start: the free part of its heap, and
// what is in memory of the program's file, which is most of it once all packages have set
// themselves up. What is used again is read again. Before Linux 5.4, and where the file is another
// user's, the file stays in memory, which is no error.
func Trim() error {
	debug.FreeOSMemory()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find the program's file: %w", err)
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("find where the program is in memory: %w", err)
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		begin, end, ok := readOnly(lines.Text(), program)
		if !ok {
			continue
		}
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, begin, end-begin, unix.MADV_PAGEOUT)
		if errno != 0 && errno != unix.EINVAL {
			return fmt.Errorf("give back what the program's file takes: %w", errno)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("find where the program is in memory: %w", err)
	}
	return nil
}

// readOnly reads a line of /proc/PID/maps, proc_pid_maps(5), and reports whether it is of a part of
// that file that nobody writes to: what was written to is in no file.
func readOnly(line, file string) (begin, end uintptr, ok bool) {
	fields := strings.Fields(line) // addresses, permissions, offset, device, inode, path
	if len(fields) < 6 || fields[5] != file || strings.Contains(fields[1], "w") {
		return 0, 0, false
	}
	n, err := fmt.Sscanf(fields[0], "%x-%x", &begin, &end)
	return begin, end, n == 2 && err == nil && begin < end
}
