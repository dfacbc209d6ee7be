// Package forecast says what a change would do before it is applied: addresses that Services lose
// or get, who answers for them, routes, and sessions. The engine is the controller's and the
// speakers' own: their compiler, allocator and plans run over a cluster.State and the changed one.
//
//	apply.go    the State with objects changed, as kubectl apply would
//	ledger.go   which addresses Services have in the end
//	owners.go   who answers for them on each segment
//	report.go   the differences
//
// It is pure, and looks at the end only: how long each step takes it does not say. What it cannot
// know is that others change the cluster too, which of several Services comes first where
// there are fewer addresses than Services, and whether a router accepts a session.
package forecast
