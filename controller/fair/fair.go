package fair

// Queue holds a first-in first-out queue for each tenant; Pop takes from the tenants in turn. It is
// a workqueue.Queue of k8s.io/client-go, and not safe for concurrent use.
type Queue[T any] struct {
	tenantOf func(T) string
	waiting  map[string][]T
	turns    []string // tenants with waiting items, the next one first
	length   int
}

// New returns an empty queue. tenantOf returns the tenant of an item.
func New[T any](tenantOf func(T) string) *Queue[T] {
	return &Queue[T]{tenantOf: tenantOf, waiting: map[string][]T{}}
}

// Touch does nothing: an item that is added again keeps its place.
func (q *Queue[T]) Touch(T) {}

// Push adds an item after the others of its tenant.
func (q *Queue[T]) Push(item T) {
	tenant := q.tenantOf(item)
	if len(q.waiting[tenant]) == 0 {
		q.turns = append(q.turns, tenant)
	}
	q.waiting[tenant] = append(q.waiting[tenant], item)
	q.length++
}

// Len returns how many items wait.
func (q *Queue[T]) Len() int { return q.length }

// Waiting returns how many items of the item's tenant wait.
func (q *Queue[T]) Waiting(item T) int { return len(q.waiting[q.tenantOf(item)]) }

// Pop takes the first item of the tenant whose turn it is. The queue must not be empty.
func (q *Queue[T]) Pop() T {
	tenant := q.turns[0]
	q.turns = q.turns[1:]
	items := q.waiting[tenant]
	item := items[0]
	var none T
	items[0] = none // for the garbage collector
	if items = items[1:]; len(items) > 0 {
		q.waiting[tenant] = items
		q.turns = append(q.turns, tenant)
	} else {
		delete(q.waiting, tenant)
	}
	q.length--
	return item
}
