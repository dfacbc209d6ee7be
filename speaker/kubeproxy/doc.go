// Package kubeproxy asks kube-proxy on this node about itself: whether it is healthy (health.go),
// and in which mode it runs (mode.go).
package kubeproxy
