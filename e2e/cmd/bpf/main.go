//go:build linux

// Program bpf compiles the product's BPF programs, with a compiler that it downloads and unpacks
// into the work folder.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/berth-lb/berth/e2e/stock"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bpf:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	folder, err := stock.Find()
	if err != nil {
		return err
	}
	clang, err := folder.FetchClang(ctx, os.Stderr)
	if err != nil {
		return err
	}
	return clang.Generate(ctx, folder.Repository, os.Stderr, "./speaker/dataplane/steering/program")
}
