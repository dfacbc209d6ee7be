// Package fair provides a queue that serves its tenants in turn, so that a tenant with many waiting
// items does not delay the others, and those first that somebody waits for.
package fair
