package fair

import "time"

// turnOfOthers says how often those have a turn that are not first, while there are some that are:
// each that many items. The turn is a slice of time, in which as many of them pass as do: most take
// some microseconds, while one that is first takes a write.
const (
	turnOfOthers = 8
	slice        = 5 * time.Millisecond
)

// Queue holds a first-in first-out queue for each tenant; Pop takes from the tenants in turn. Some
// items go first, and take turns among themselves. It is a workqueue.Queue of k8s.io/client-go, and
// not safe for concurrent use.
type Queue[T any] struct {
	tenantOf      func(T) string
	goesFirst     func(T) bool
	first, others lane[T]
	passed        int       // items of first since a turn of the others
	until         time.Time // the end of that turn; zero: it is not theirs
}

// lane is a queue of tenants that take turns.
type lane[T any] struct {
	waiting map[string][]T
	turns   []string // tenants with waiting items, the next one first
	length  int
}

// New returns an empty queue. tenantOf returns the tenant of an item, and goesFirst reports whether
// it goes before others, when it is pushed; nil: none does.
func New[T any](tenantOf func(T) string, goesFirst func(T) bool) *Queue[T] {
	return &Queue[T]{
		tenantOf: tenantOf, goesFirst: goesFirst,
		first: lane[T]{waiting: map[string][]T{}}, others: lane[T]{waiting: map[string][]T{}},
	}
}

// Touch does nothing: an item that is added again keeps its place.
func (q *Queue[T]) Touch(T) {}

// Push adds an item after the others of its tenant.
func (q *Queue[T]) Push(item T) {
	if q.goesFirst != nil && q.goesFirst(item) {
		q.first.push(q.tenantOf(item), item)
	} else {
		q.others.push(q.tenantOf(item), item)
	}
}

// Len returns how many items wait.
func (q *Queue[T]) Len() int { return q.first.length + q.others.length }

// Waiting returns how many items of the item's tenant wait.
func (q *Queue[T]) Waiting(item T) int {
	tenant := q.tenantOf(item)
	return len(q.first.waiting[tenant]) + len(q.others.waiting[tenant])
}

// Pop takes the first item of the tenant whose turn it is. The queue must not be empty.
func (q *Queue[T]) Pop() T {
	now := time.Now()
	switch {
	case q.first.length == 0:
		q.passed, q.until = 0, time.Time{}
		return q.others.pop()
	case q.others.length > 0 && now.Before(q.until):
		return q.others.pop()
	case q.others.length > 0 && q.passed >= turnOfOthers:
		q.passed, q.until = 0, now.Add(slice)
		return q.others.pop()
	}
	q.passed, q.until = q.passed+1, time.Time{}
	return q.first.pop()
}

func (l *lane[T]) push(tenant string, item T) {
	if len(l.waiting[tenant]) == 0 {
		l.turns = append(l.turns, tenant)
	}
	l.waiting[tenant] = append(l.waiting[tenant], item)
	l.length++
}

func (l *lane[T]) pop() T {
	tenant := l.turns[0]
	l.turns = l.turns[1:]
	items := l.waiting[tenant]
	item := items[0]
	var none T
	items[0] = none // for the garbage collector
	if items = items[1:]; len(items) > 0 {
		l.waiting[tenant] = items
		l.turns = append(l.turns, tenant)
	} else {
		delete(l.waiting, tenant)
	}
	l.length--
	return item
}
