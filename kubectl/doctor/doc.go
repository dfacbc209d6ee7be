// Package doctor looks for what keeps Berth from working in a cluster, or will once it is there.
//
// Look is pure: it concludes from a cluster.State, from a few things that only it needs (Extras,
// read.go) and from what pods on the nodes saw, if there were any. Every finding has an ID, which
// docs/reference/doctor.md explains.
//
//   - finding.go: what a finding is, and the table of all IDs
//   - others.go: other load balancers, kubeproxy.go: kube-proxy, platform.go: the cluster itself
//   - services.go, addresses.go: Services, and the addresses of pools
//   - installed.go, network.go: Berth, once it is installed
//   - nodes.go: what probes on the nodes found; package nodes judges, and package pods runs them
package doctor
