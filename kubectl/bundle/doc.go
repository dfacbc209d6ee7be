// Package bundle is the support archive of kubectl berth: what a cluster has to say about Berth, in
// one file that may be given to others.
//
//   - redact.go takes out what is secret; pure
//   - archive.go is the file: everything that is put into it passes through redact.go
//   - collect.go reads the cluster; it never asks for a Secret
package bundle
