// Package ipam gives addresses from pools to owners. It is pure: it knows no
// Kubernetes, no clock and no I/O. An Allocator is not safe for concurrent use.
package ipam
