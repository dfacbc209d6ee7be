package vm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// user-mode-linux before 6.12 has no room for a process's state on processors with AMX, and its
// first process crashes (Linux d1254b145, "uml: Fix FP register size for XSTATE/XSAVE"). Where
// ptrace has no PTRACE_GETREGSET it uses FXSAVE, which lacks the upper halves of AVX registers:
// each page fault loses them, so the guest's programs must do without.

// fxsaveVar marks the process that becomes a kernel without PTRACE_GETREGSET.
const fxsaveVar = "BERTH_VM_FXSAVE"

// withoutAVX is what programs of Go and of glibc get in such a guest.
var withoutAVX = []string{
	"GODEBUG=cpu.avx=off,cpu.avx2=off,cpu.avx512f=off",
	"GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-XSAVEC",
}

// hasAMX reports whether this machine's processor has AMX. A guest is told by environment.
func hasAMX() bool {
	text, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && strings.Contains(string(text), " amx_tile")
}

// becomeKernel runs the program that is named by the arguments in this process, without
// PTRACE_GETREGSET and PTRACE_SETREGSET. It returns only if that fails.
func becomeKernel(args []string) error {
	runtime.LockOSThread() // the filter is this thread's, and this thread executes the program
	const number, first = 0, 16
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_PTRACE, Jf: 4},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: first},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.PTRACE_GETREGSET, Jt: 1},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.PTRACE_SETREGSET, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EIO)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	// Converted within the arguments, the pointer is valid until the call returns (package unsafe).
	_, _, errno := unix.Syscall(
		unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)),
	)
	runtime.KeepAlive(filter)
	if errno != 0 {
		return fmt.Errorf("install a seccomp filter: %w", errno)
	}
	if err := os.Unsetenv(fxsaveVar); err != nil {
		return err
	}
	if len(args) == 0 {
		return errors.New("no program is named")
	}
	return fmt.Errorf("execute %s: %w", args[0], syscall.Exec(args[0], args, os.Environ()))
}

// launcher is a program that executes the one at path with its own arguments and this environment:
// the kernel starts modprobe with an environment of its own, and no program of Go or glibc gets far
// enough to change it.
func launcher(path string, environment []string) []byte {
	const base, header, program = 0x400000, 64, 56
	code := []byte{
		0x48, 0x8d, 0x74, 0x24, 0x08, // lea rsi, [rsp+8]: the arguments
		0x48, 0xbf, 0, 0, 0, 0, 0, 0, 0, 0, // mov rdi, path
		0x48, 0xba, 0, 0, 0, 0, 0, 0, 0, 0, // mov rdx, environment
		0xb8, unix.SYS_EXECVE, 0, 0, 0, 0x0f, 0x05, // mov eax, execve; syscall
		0xbf, 1, 0, 0, 0, 0xb8, unix.SYS_EXIT, 0, 0, 0, 0x0f, 0x05, // exit(1)
	}
	start := uint64(base + header + program)
	var texts []byte
	text := func(s string) (at uint64) {
		at = start + uint64(len(code)) + uint64(len(texts))
		texts = append(append(texts, s...), 0)
		return at
	}
	binary.LittleEndian.PutUint64(code[7:], text(path))
	var pointers []byte
	for _, e := range environment {
		pointers = binary.LittleEndian.AppendUint64(pointers, text(e))
	}
	pointers = binary.LittleEndian.AppendUint64(pointers, 0)
	binary.LittleEndian.PutUint64(code[17:], start+uint64(len(code))+uint64(len(texts)))
	body := slices.Concat(code, texts, pointers)
	size := uint64(header + program + len(body))

	elf := []byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	le := binary.LittleEndian
	elf = le.AppendUint16(elf, 2)  // an executable
	elf = le.AppendUint16(elf, 62) // x86-64
	elf = le.AppendUint32(elf, 1)
	elf = le.AppendUint64(elf, start)
	elf = le.AppendUint64(elf, header) // of the program headers
	elf = le.AppendUint64(elf, 0)
	elf = le.AppendUint32(elf, 0)
	for _, n := range []uint16{header, program, 1, 64, 0, 0} {
		elf = le.AppendUint16(elf, n)
	}
	elf = le.AppendUint32(elf, 1) // PT_LOAD
	elf = le.AppendUint32(elf, 5) // read, execute
	for _, n := range []uint64{0, base, base, size, size, 0x1000} {
		elf = le.AppendUint64(elf, n)
	}
	return append(elf, body...)
}
