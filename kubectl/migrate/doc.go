// Package migrate converts what other load balancers are told into Berth's objects, and says what
// has no counterpart. It needs no cluster, and does no I/O.
//
// Each source has a file or two: metallb.go and legacy.go, kubevip.go and kubevipbgp.go, cilium.go
// and ciliumbgp.go, purelb.go, externalips.go. They use what is below them: converter.go has the
// objects and the report, addresses.go, selectors.go, neighbors.go and services.go what sources
// have in common. migrate.go reads files and chooses the source.
//
// What Berth would refuse is not put out, but reported in the words of package lint, which has the
// last look at everything.
package migrate
