// Package follow watches a cluster for commands that show it as it changes, or wait until something
// has come true.
package follow
