// Package dataplane is what forwards on a node, besides kube-proxy: Berth's own data plane, and the
// rules around it.
//
// A Driver (driver.go) programs what plans say: virtual servers by package ipvs, and nftables rules
// around them by package guard. From plan to plan it remembers the forwardingState (state.go):
// since when endpoints terminate (drains.go), firewall marks (marks.go), what the kernel showed
// (readiness.go), and what kube-proxy is taking over (grace.go). It says what this node can do, and
// which nodes are dead (liveness.go); metrics.go has its counters. None (none.go) is the same for a
// node where only kube-proxy forwards, and removes the leftovers of a former process
// (leftovers.go).
//
// Package unserved drops packets for announced addresses that nothing on the node serves. Like
// guard, it keeps its table by package nft. Begin with Driver.Sync.
package dataplane
