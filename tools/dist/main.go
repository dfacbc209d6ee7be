// Command dist makes what a release consists of:
//
//	dist image    the container image as archives, with lists of its parts (SBOMs)
//	dist push     the same in a registry too, and a manifest that takes it from there
//	dist release  all that a release publishes, with checksums
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/berth-lb/berth/tools/image"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "dist:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	root     string // of the repository
	out      string // folder for what is made
	registry string // as users name it: a host, with a path or without; may be empty
	tag      string // that the release must have; may be empty
}

func run(ctx context.Context, args []string, log io.Writer) error {
	var o options
	flags := flag.NewFlagSet("dist", flag.ContinueOnError)
	flags.StringVar(&o.root, "C", ".", "the root of the repository")
	flags.StringVar(&o.out, "o", "", "the folder to write to, emptied before")
	flags.StringVar(
		&o.registry,
		"registry",
		"",
		"the registry, with a path or without, such as registry.example.com/infra",
	)
	flags.StringVar(
		&o.tag,
		"tag",
		"",
		"fail unless the source is of this version and the changelog has a section for it",
	)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 || o.out == "" {
		return errors.New("usage: dist -o FOLDER [-C ROOT] [-registry REGISTRY] [-tag TAG] image|push|release")
	}
	do, ok := map[string]func(context.Context, options, io.Writer) error{
		"image": writeImage, "push": push, "release": release,
	}[flags.Arg(0)]
	if !ok {
		return fmt.Errorf("%s is none of image, push and release", flags.Arg(0))
	}
	return do(ctx, o, log)
}

// repository is where the image is in the registry.
func (o options) repository() (name.Repository, error) {
	if o.registry == "" {
		return name.Repository{}, errors.New(
			"no registry is named: make image-push REGISTRY=registry.example.com/infra",
		)
	}
	to, err := name.NewRepository(strings.TrimSuffix(o.registry, "/") + "/berth")
	if err != nil {
		return name.Repository{}, fmt.Errorf("registry %s: %w", o.registry, err)
	}
	// Without a host it would be Docker Hub.
	if host, _, _ := strings.Cut(o.registry, "/"); !strings.ContainsAny(host, ".:") && host != "localhost" {
		return name.Repository{}, fmt.Errorf(
			"registry %s: begins with no host; write registry.example.com/%s",
			o.registry,
			o.registry,
		)
	}
	return to, nil
}

// build empties the output folder and builds the image into it.
func (o options) build(ctx context.Context, log io.Writer) (image.Set, error) {
	source, err := image.ReadSource(ctx, o.root)
	if err != nil {
		return image.Set{}, err
	}
	if o.tag != "" && o.tag != source.Version {
		return image.Set{}, fmt.Errorf("internal/version/VERSION says %s, not %s", source.Version, o.tag)
	}
	if err := os.RemoveAll(o.out); err != nil {
		return image.Set{}, fmt.Errorf("empty the output folder: %w", err)
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return image.Set{}, fmt.Errorf("make the output folder: %w", err)
	}
	set, err := image.Build(ctx, source, o.out)
	if err != nil {
		return image.Set{}, err
	}
	digest, err := set.Index.Digest()
	if err != nil {
		return image.Set{}, err
	}
	fmt.Fprintf(log, "berth %s, commit %s\n%s\n", source.Version, source.Commit, digest)
	return set, nil
}

func writeImage(ctx context.Context, o options, log io.Writer) error {
	set, err := o.build(ctx, log)
	if err != nil {
		return err
	}
	return o.writeArchives(set, log)
}

func (o options) writeArchives(set image.Set, log io.Writer) error {
	archives, err := set.Write(o.out)
	if err != nil {
		return err
	}
	lists, err := set.WriteSBOMs(o.out)
	if err != nil {
		return err
	}
	for _, file := range append(archives, lists...) {
		fmt.Fprintln(log, o.shown(file))
	}
	return nil
}

// shown is the path of a file of the output folder, as a user in the root of the repository writes
// it.
func (o options) shown(file string) string {
	file = filepath.Join(o.out, file)
	root, err := filepath.Abs(o.root)
	if err != nil {
		return file
	}
	if whole, err := filepath.Abs(file); err == nil && strings.HasPrefix(whole, root+string(filepath.Separator)) {
		return whole[len(root)+1:]
	}
	return file
}

func push(ctx context.Context, o options, log io.Writer) error {
	to, err := o.repository()
	if err != nil {
		return err
	}
	set, err := o.build(ctx, log)
	if err != nil {
		return err
	}
	if err := o.writeArchives(set, log); err != nil {
		return err
	}
	pushed, err := set.Push(ctx, to, remote.WithAuthFromKeychain(authn.DefaultKeychain))
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "pushed %s, tag %s\n", pushed, set.Source.Version)
	file := filepath.Join(o.out, registryManifest)
	if err := writeManifest(set.Source, pushed.Name(), file); err != nil {
		return err
	}
	fmt.Fprintf(log, "%s takes it from there\n", o.shown(registryManifest))
	return nil
}
