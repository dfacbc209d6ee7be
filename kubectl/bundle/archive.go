package bundle

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/doctor"
	"github.com/berth-lb/berth/kubectl/why"
)

const (
	// folder is the one of the archive that everything is in.
	folder = "berth-bundle/"
	// errorsFile says what could not be had.
	errorsFile = "errors.txt"
	// mostContent bounds what is read of an archive.
	mostContent = 2 << 30
)

// Bundle is the files of a support archive. Make one with New, or Read it.
type Bundle struct {
	namespace string // Berth's
	files     map[string][]byte
	errors    []string
}

// New returns an empty Bundle of a cluster where Berth is in this namespace.
func New(namespace string) *Bundle { return &Bundle{namespace: namespace, files: map[string][]byte{}} }

// Add adds a file, without what is secret in it. One that ends in .json must be JSON.
func (b *Bundle) Add(name string, content []byte) {
	clean, err := b.redact(name, content)
	b.keep(name, clean, err)
}

// redact returns the content of a file without what is secret in it. It does not change the Bundle.
func (b *Bundle) redact(name string, content []byte) ([]byte, error) {
	if strings.HasSuffix(name, ".json") {
		return JSON(content, b.namespace)
	}
	return []byte(Text(string(content))), nil
}

// keep keeps a file that redact returned, or why there is none.
func (b *Bundle) keep(name string, clean []byte, err error) {
	if err != nil {
		b.Fail(name, err)
		return
	}
	b.files[name] = clean
}

// Fail notes that something could not be had.
func (b *Bundle) Fail(what string, err error) {
	b.errors = append(b.errors, Text(fmt.Sprintf("%s: %v", what, err)))
}

// Errors returns what could not be had, and why.
func (b *Bundle) Errors() []string { return slices.Sorted(slices.Values(b.errors)) }

// Names returns the names of the files, sorted.
func (b *Bundle) Names() []string { return slices.Sorted(maps.Keys(b.files)) }

// Write writes the archive: a tar, compressed by gzip, of files that only their owner reads.
func (b *Bundle) Write(to io.Writer, at time.Time) error {
	zip := gzip.NewWriter(to)
	out := tar.NewWriter(zip)
	write := func(name string, content []byte) error {
		err := out.WriteHeader(&tar.Header{Name: folder + name, Mode: 0o600, Size: int64(len(content)), ModTime: at})
		if err == nil {
			_, err = out.Write(content)
		}
		return err
	}
	for _, name := range b.Names() {
		if err := write(name, b.files[name]); err != nil {
			return err
		}
	}
	if len(b.errors) > 0 {
		if err := write(errorsFile, []byte(strings.Join(b.Errors(), "\n")+"\n")); err != nil {
			return err
		}
	}
	return errors.Join(out.Close(), zip.Close())
}

// Read reads an archive.
func Read(from io.Reader) (*Bundle, error) {
	zip, err := gzip.NewReader(from)
	if err != nil {
		return nil, fmt.Errorf("is not an archive of kubectl berth bundle: %w", err)
	}
	b := New("")
	for in := tar.NewReader(io.LimitReader(zip, mostContent)); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		var content []byte
		if err == nil {
			content, err = io.ReadAll(in)
		}
		if err != nil {
			return nil, fmt.Errorf("is damaged: %w", err)
		}
		if _, name, ok := strings.Cut(path.Clean(h.Name), "/"); ok {
			b.files[name] = content
		}
	}
}

// State returns the State that was saved.
func (b *Bundle) State() (*cluster.State, error) { return cluster.Load(b.files) }

// Extras returns what the doctor needs besides.
func (b *Bundle) Extras() (*doctor.Extras, error) { return doctor.LoadExtras(b.files) }

// Pods returns the Pods of a namespace that has Services of type LoadBalancer.
func (b *Bundle) Pods(namespace string) why.Pods {
	content, found := b.files[podsFile(namespace)]
	if !found {
		return why.Pods{Err: errors.New("they are not in the bundle")}
	}
	all, err := cluster.LoadList[corev1.Pod](content)
	return why.Pods{All: all, Err: err}
}

func podsFile(namespace string) string { return "pods/" + namespace + ".json" }
