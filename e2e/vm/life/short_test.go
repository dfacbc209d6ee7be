//go:build qemu && !release

package life_test

// longParts are for `make test-release`.
func (l *life) longParts() []part { return nil }
