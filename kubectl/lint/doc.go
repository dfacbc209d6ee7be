// Package lint judges objects in files as an API server and Berth's controller would: by the
// schemas and rules of the CustomResourceDefinitions, and by the compiler of the configuration. It
// needs no cluster, and does no I/O.
package lint
