// Package nodes is the part of the doctor that looks from the nodes: what their probes are to do,
// and what follows from what they saw. It is pure; package pods runs the probes, and
// internal/probe/measure is what they do.
//
//   - plan.go: what each node is asked, chosen.go: which nodes are, addresses.go: which addresses,
//     askers.go: by whom
//   - judge.go: what follows, answers.go: from answers to questions for addresses
package nodes
