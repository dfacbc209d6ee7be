package controller

import (
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// ReasonAccepted is that of the conditions of an object that is in effect.
const ReasonAccepted = "Accepted"

// verdict is what the controller makes of a configuration object.
type verdict struct {
	accepted bool // it is in effect, in part at least
	wrong    bool // it is not in effect, or a part of it is not
	// reason and message of what is wrong, or of its being in effect.
	reason, message string
}

// verdictOf is the verdict on an object of which that is wrong.
func verdictOf(accepted bool, problems []config.Problem) verdict {
	v := verdict{accepted: accepted, reason: ReasonAccepted, message: "all of the object is in effect"}
	if harmful := harmfulOf(problems); len(harmful) > 0 {
		v.wrong, v.reason, v.message = true, harmful[0].Reason, summary(harmful)
	}
	return v
}

// apply puts the verdict into the conditions Accepted, PartiallyInvalid and Ready, and the object's generation into its
// status. It reports whether that changed anything, and whether its reader does not know it yet.
func (v verdict) apply(o v1alpha1.Object) (changed, news bool) {
	generation, now := o.GetGeneration(), metav1.Now()
	set := func(kind string, ok bool, reason, message string) {
		differs, isNews := condition{kind: kind, ok: ok, reason: reason, message: message}.apply(o.ConditionList(), generation, now)
		changed, news = changed || differs, news || isNews
	}
	changed = o.Observed(generation)
	if partly := v.accepted && v.wrong; partly {
		set(v1alpha1.ConditionAccepted, true, ReasonAccepted, "in effect, but for what condition PartiallyInvalid says")
		set(v1alpha1.ConditionPartiallyInvalid, true, v.reason, v.message)
	} else {
		set(v1alpha1.ConditionAccepted, v.accepted, v.reason, v.message)
		if meta.RemoveStatusCondition(o.ConditionList(), v1alpha1.ConditionPartiallyInvalid) {
			changed = true
		}
	}
	set(v1alpha1.ConditionReady, v.accepted && !v.wrong, v.reason, v.message)
	return changed, news
}
