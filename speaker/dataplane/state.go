package dataplane

// forwardingState is what is remembered of groups from plan to plan. Only the goroutine that plans
// uses it.
type forwardingState struct {
	drains *drains
	marks  *markAllocator
	ready  readiness
	grace  map[string]kubeProxyGrace // by group
}

func newForwardingState() *forwardingState {
	return &forwardingState{newDrains(), newMarkAllocator(), readiness{}, map[string]kubeProxyGrace{}}
}

// forget forgets a group that no longer exists.
func (s *forwardingState) forget(group string) {
	s.marks.assign(group, nil)
	delete(s.ready, group)
	delete(s.grace, group)
}
