// Package announcement computes the condition Announced of a Service: which announcements announce
// its addresses, or what keeps each node from it. It also decides whether IPVS or kube-proxy
// forwards. It works on what nodes and speakers report, and does no I/O.
//
// Begin with Service (announce.go), then Node (node.go), Forwarder (forwarder.go) and Expected
// (expect.go).
package announcement
