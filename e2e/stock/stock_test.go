package stock

import (
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestTheRepositoryIsFoundFromAnyFolderOfIt(t *testing.T) {
	repository, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(repository, "go.mod"), module+"\n\ngo 1.26\n")
	write(t, filepath.Join(repository, "e2e", "go.mod"), module+"/e2e\n")
	t.Setenv("BERTH_CACHE", "")
	t.Chdir(filepath.Join(repository, "e2e"))
	got, err := Find()
	if err != nil || got != (Folder{Root: filepath.Join(repository, ".cache"), Repository: repository}) {
		t.Errorf("Find() = %+v, %v", got, err)
	}
	t.Setenv("BERTH_CACHE", "/elsewhere")
	if got, err := Find(); err != nil || got.Bin("lab") != "/elsewhere/bin/lab" {
		t.Errorf("with BERTH_CACHE: %+v, %v", got, err)
	}
	t.Chdir(filepath.Dir(repository))
	if got, err := Find(); err == nil {
		t.Errorf("found %+v outside the repository", got)
	}
}

// The names of images carry the version that the module asks for.
func TestMetalLBIsOfTheVersionThatItsImagesAreNamedBy(t *testing.T) {
	text, err := os.ReadFile("../metallb/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if want := "\t" + metalLBModule + " " + metalLBVersion; !strings.Contains(string(text), want) {
		t.Errorf("metallb/go.mod has no line %q", want)
	}
	want := map[string]string{
		"controller": "berth.dev/metallb-controller:v0.16.1",
		"speaker":    "berth.dev/metallb-speaker:v0.16.1",
	}
	if got := MetalLBImages(); !maps.Equal(got, want) {
		t.Errorf("images %v, want %v", got, want)
	}
}

func TestBerthImage(t *testing.T) {
	text, err := os.ReadFile("../../manifests/berth.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(text), "\n        image: "+BerthImage()+"\n"); got != 4 {
		t.Errorf("manifests/berth.yaml names the image %s %d times, want it in the controller, the speaker, its heart and BGP", BerthImage(), got)
	}
}

// No registry has the images of the lab, so no page and no manifest may have a user pull them.
func TestNoTextNamesImagesOfTheLab(t *testing.T) {
	image := regexp.MustCompile(`image[:=] *"?berth\.dev/`)
	read := 0
	for _, top := range []string{"../../README.md", "../../docs", "../../manifests"} {
		err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			if found := image.Find(text); found != nil {
				t.Errorf("%s has %q", path, found)
			}
			read++
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if read < 20 {
		t.Errorf("read %d files only", read)
	}
}

// A clone without the history says what to do.
func TestExtract(t *testing.T) {
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com"}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	git("init", "-q")
	write(t, filepath.Join(dir, "a", "file"), "old")
	git("add", ".")
	git("commit", "-q", "-m", "old")
	git("tag", "v1")
	write(t, filepath.Join(dir, "a", "file"), "new")
	git("commit", "-q", "-a", "-m", "new")

	folder, to := Folder{Repository: dir}, filepath.Join(t.TempDir(), "to")
	if err := folder.extract(t.Context(), "v1", to); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(to, "a", "file")); err != nil || string(got) != "old" {
		t.Errorf("the file has %q (%v), want what v1 has", got, err)
	}
	err := folder.extract(t.Context(), "9e1868a", filepath.Join(t.TempDir(), "to"))
	if err == nil || !strings.Contains(err.Error(), "git fetch --unshallow") {
		t.Errorf("of a commit that is not there it says %v, want how to get it", err)
	}
}

func TestUnpackedPackagesAreLaidOutAsOnASystemWithMergedUsr(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "bin/kmod"), "kmod")
	write(t, filepath.Join(root, "lib/modprobe.d/a.conf"), "a")
	write(t, filepath.Join(root, "usr/lib/modprobe.d/b.conf"), "b")
	write(t, filepath.Join(root, "usr/sbin/iptables-nft"), "nft")
	write(t, filepath.Join(root, "usr/sbin/xtables-nft-multi"), "multi")
	if err := mergeUsr(root); err != nil {
		t.Fatal(err)
	}
	if err := chooseIptables(filepath.Join(root, "usr/sbin")); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"usr/bin/kmod": "kmod", "usr/lib/modprobe.d/a.conf": "a", "usr/lib/modprobe.d/b.conf": "b",
		"usr/sbin/iptables": "multi",
	} {
		if got, err := os.ReadFile(filepath.Join(root, path)); err != nil || string(got) != want {
			t.Errorf("%s = %q, %v; want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"bin", "lib", "usr/sbin/ip6tables"} {
		if _, err := os.Lstat(filepath.Join(root, path)); err == nil {
			t.Errorf("%s is there", path)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
