//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "lab: the lab needs Linux: run it on such a machine or in a virtual machine")
	os.Exit(1)
}
