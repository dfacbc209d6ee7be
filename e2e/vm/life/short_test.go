//go:build qemu && !release

package life_test

const long = false // `make test-release` runs those parts
