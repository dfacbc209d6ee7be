// Package steps migrates a cluster from MetalLB to Berth and back, node by node.
//
// Plan is a pure function from a Snapshot of the cluster to steps: which are done, what each does,
// and what undoes it. Nothing is kept elsewhere, so a command that was interrupted goes on, when it
// is run again, from what is there. A Reader takes Snapshots, and a Runner does or undoes one step,
// by the actions that Plan says.
//
// Begin with plan.go. The phases are in controller.go, segments.go and routes.go.
package steps
