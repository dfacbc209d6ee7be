//go:build linux

package guard

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
)

// Leftovers reports whether the table is there: a process that ran a Driver left it.
func Leftovers() (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list nftables: %w", err)
	}
	name := newKernel().Name
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == name }), nil
}

// RemoveLeftovers deletes the table. No Driver may run beside it.
func RemoveLeftovers() error { return newKernel().Remove() }
