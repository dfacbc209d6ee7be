// Package image builds Berth's container image: one static program for several platforms, with the
// licenses of what is linked into it, a list of its parts (SBOM), and nothing else.
//
// The same source and the same release of Go give the same bytes, wherever they are built.
//
//   - source.go: the tree, its version and commit, and how it is compiled
//   - licenses.go: the licenses of the modules in the program
//   - pack.go: from programs to images, and to the index over them (start reading here)
//   - sbom.go: the list of parts
//   - archive.go: files for nodes without a registry
//   - push.go: to a registry
package image
