package verdict

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/condition"
)

// ReasonAccepted is the reason of the conditions of an object in full effect.
const ReasonAccepted = "Accepted"

// Verdict is the controller's verdict on a configuration object.
type Verdict struct {
	Accepted bool // it is in effect, at least in part
	Wrong    bool // it or a part of it is not in effect
	// Reason and Message say what is wrong, or that the object is in effect.
	Reason, Message string
}

// Of returns the verdict on an object with these problems.
func Of(accepted bool, problems []config.Problem) Verdict {
	v := Verdict{Accepted: accepted, Reason: ReasonAccepted, Message: "all of the object is in effect"}
	if harmful := harmfulOf(problems); len(harmful) > 0 {
		v.Wrong, v.Reason, v.Message = true, harmful[0].Reason, summary(harmful)
	}
	return v
}

// Apply sets the conditions Accepted, PartiallyInvalid and Ready, and the observed generation. It
// reports whether anything changed, and whether that is news to the reader of the object.
func (v Verdict) Apply(o v1alpha1.Object) (changed, news bool) {
	generation, now := o.GetGeneration(), metav1.Now()
	set := func(kind string, ok bool, reason, message string) {
		d := condition.Condition{Kind: kind, OK: ok, Reason: reason, Message: message}
		differs, isNews := d.Apply(o.ConditionList(), generation, now)
		changed, news = changed || differs, news || isNews
	}
	changed = o.Observed(generation)
	if partly := v.Accepted && v.Wrong; partly {
		set(v1alpha1.ConditionAccepted, true, ReasonAccepted, "in effect, but for what condition PartiallyInvalid says")
		set(v1alpha1.ConditionPartiallyInvalid, true, v.Reason, v.Message)
	} else {
		set(v1alpha1.ConditionAccepted, v.Accepted, v.Reason, v.Message)
		if meta.RemoveStatusCondition(o.ConditionList(), v1alpha1.ConditionPartiallyInvalid) {
			changed = true
		}
	}
	set(v1alpha1.ConditionReady, v.Accepted && !v.Wrong, v.Reason, v.Message)
	return changed, news
}

// harmfulOf returns the problems that keep a part of the object from taking effect.
func harmfulOf(problems []config.Problem) []config.Problem {
	return slices.DeleteFunc(slices.Clone(problems), func(p config.Problem) bool { return p.Harmless })
}

// Conflicts returns the condition Conflict of a pool.
func Conflicts(problems []config.Problem) condition.Condition {
	otherwise := func(p config.Problem) bool { return p.Reason != config.ReasonConflict }
	found := slices.DeleteFunc(slices.Clone(problems), otherwise)
	if len(found) == 0 {
		return condition.Condition{
			Kind:    v1alpha1.ConditionConflict,
			Reason:  "NoConflict",
			Message: "no other LoadBalancerPool claims these addresses",
		}
	}
	return condition.Condition{
		Kind:    v1alpha1.ConditionConflict,
		OK:      true,
		Reason:  config.ReasonConflict,
		Message: summary(found),
	}
}

// summary joins the messages of the first few problems, and counts the rest.
func summary(problems []config.Problem) string {
	const most = 8
	var messages []string
	for _, p := range problems[:min(most, len(problems))] {
		messages = append(messages, p.Message)
	}
	if more := len(problems) - most; more > 0 {
		messages = append(messages, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(messages, "; ")
}
