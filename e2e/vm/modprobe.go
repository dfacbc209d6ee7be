package vm

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// modprobeDir comes first in the guest's PATH, so that programs which call modprobe find the same
// one that the kernel calls; the host need not have one.
const modprobeDir = "/run/bin"

// installModprobe makes PID 1's own executable the guest's modprobe.
func installModprobe() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(modprobeDir, 0o755); err != nil {
		return err
	}
	link := filepath.Join(modprobeDir, "modprobe")
	if err := os.Symlink(self, link); err != nil {
		return err
	}
	if environment := os.Getenv("GLIBC_TUNABLES"); environment != "" { // see withoutAVX
		real := link
		link = filepath.Join(modprobeDir, "launch", "modprobe")
		if err := os.Mkdir(filepath.Dir(link), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(link, launcher(real, withoutAVX), 0o755); err != nil {
			return err
		}
	}
	return os.WriteFile("/proc/sys/kernel/modprobe", []byte(link), 0o644)
}

// modprobe loads the named modules and all they depend on. Options are accepted and ignored: the
// kernel calls it with -q --, others with -a or -v. Compressed modules and soft dependencies are
// not served.
func modprobe(args []string) error {
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		return err
	}
	task, err := readSpec()
	if err != nil {
		return err
	}
	index, err := readModules(filepath.Join(task.Modules, unix.ByteSliceToString(uname.Release[:])))
	if err != nil {
		return err
	}
	for _, name := range args {
		if strings.HasPrefix(name, "-") {
			continue
		}
		if err := index.load(name); err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

// modules is the index that depmod left beside a kernel's modules.
type modules struct {
	dir     string
	files   map[string]string   // module name to file, relative to dir
	depends map[string][]string // file to files, the one to load first being the last
	aliases []alias
}

type alias struct{ pattern, module string }

// readModules reads modules.dep and modules.alias of one kernel release.
func readModules(dir string) (*modules, error) {
	m := &modules{dir: dir, files: map[string]string{}, depends: map[string][]string{}}
	err := eachLine(filepath.Join(dir, "modules.dep"), func(line string) {
		file, needs, ok := strings.Cut(line, ":")
		if !ok {
			return
		}
		m.files[moduleName(file)] = file
		m.depends[file] = strings.Fields(needs)
	})
	if err != nil {
		return nil, err
	}
	err = eachLine(filepath.Join(dir, "modules.alias"), func(line string) {
		// Patterns with character classes name hardware, of which a guest has none.
		if f := strings.Fields(line); len(f) == 3 && f[0] == "alias" && !strings.Contains(f[1], "[") {
			m.aliases = append(m.aliases, alias{pattern: canonical(f[1]), module: f[2]})
		}
	})
	return m, err
}

// find returns the files that name stands for, a module or an alias of some.
func (m *modules) find(name string) []string {
	name = canonical(name)
	if file, ok := m.files[name]; ok {
		return []string{file}
	}
	var found []string
	for _, a := range m.aliases {
		if ok, err := path.Match(a.pattern, name); err == nil && ok {
			found = append(found, m.files[canonical(a.module)])
		}
	}
	return found
}

// load inserts all modules that name stands for. If one fails, as modules for other processors do,
// the others are loaded all the same.
func (m *modules) load(name string) error {
	files := m.find(name)
	if len(files) == 0 {
		if _, err := os.Stat(filepath.Join("/sys/module", canonical(name))); err == nil {
			return nil // built in
		}
		return m.unknown()
	}
	var failed error
	for _, file := range files {
		failed = errors.Join(failed, m.insertAll(m.order(file)))
	}
	return failed
}

func (m *modules) unknown() error { return fmt.Errorf("no such module in %s", m.dir) }

// order returns the files and all that they depend on, each once and after those it depends on.
func (m *modules) order(files ...string) []string {
	var ordered []string
	add := func(file string) {
		if !slices.Contains(ordered, file) {
			ordered = append(ordered, file)
		}
	}
	for _, file := range files {
		for _, needed := range slices.Backward(m.depends[file]) {
			add(needed)
		}
		add(file)
	}
	return ordered
}

func (m *modules) insertAll(files []string) error {
	for _, file := range files {
		if err := insert(filepath.Join(m.dir, file)); err != nil {
			return err
		}
	}
	return nil
}

// insert loads one file. It is not an error if it is loaded already.
func insert(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("insert %s: %w", file, err)
	}
	return nil
}

func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return canonical(name)
}

// canonical is the kernel's spelling: it takes - and _ in a module's name for the same.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

func eachLine(file string, f func(line string)) error {
	r, err := os.Open(file)
	if err != nil {
		return err
	}
	defer r.Close()
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f(lines.Text())
	}
	return lines.Err()
}
