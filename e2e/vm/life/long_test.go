//go:build qemu && release

package life_test

const long = true
