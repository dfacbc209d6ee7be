package condition

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Condition is a condition without its times.
type Condition struct {
	Kind    string
	OK      bool
	Reason  string
	Message string
	Warns   bool // it is OK, except for something that its reader should correct
}

// Apply sets the condition in the list. It reports whether the list changed, and whether that is
// news to its reader: more changed than the generation.
func (c Condition) Apply(list *[]metav1.Condition, generation int64, now metav1.Time) (changed, news bool) {
	status := metav1.ConditionFalse
	if c.OK {
		status = metav1.ConditionTrue
	}
	i := slices.IndexFunc(*list, func(o metav1.Condition) bool { return o.Type == c.Kind })
	if i < 0 {
		*list = append(*list, metav1.Condition{
			Type:               c.Kind,
			Status:             status,
			Reason:             c.Reason,
			Message:            c.Message,
			ObservedGeneration: generation,
			LastTransitionTime: now,
		})
		return true, true
	}
	old := &(*list)[i]
	if old.Status == status && old.Reason == c.Reason && old.Message == c.Message && old.ObservedGeneration == generation {
		return false, false
	}
	news = old.Status != status || old.Reason != c.Reason || old.Message != c.Message
	if old.Status != status {
		old.LastTransitionTime = now
	}
	old.Status, old.Reason, old.Message, old.ObservedGeneration = status, c.Reason, c.Message, generation
	return true, news
}

// Join joins the addresses to one text.
func Join(addresses []netip.Addr, with string) string {
	var s []string
	for _, a := range addresses {
		s = append(s, a.String())
	}
	return strings.Join(s, with)
}

// Few lists the first five names, and counts the rest.
func Few(names []string) string {
	const most = 5
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), more)
	}
	return strings.Join(names, ", ")
}

// Counted returns a number of things in words.
func Counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
