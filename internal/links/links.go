// Package links knows the interfaces of a node by their names.
package links

// OfServices reports whether an interface has its addresses because Services have them:
// kube-proxy's in mode ipvs, PureLB's, or kube-router's.
func OfServices(name string) bool {
	switch name {
	case "kube-ipvs0", "kube-lb0", "kube-dummy-if":
		return true
	}
	return false
}
