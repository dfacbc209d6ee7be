package verb

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// AnnotationDrained on a Node says that drain has set its label, so that undo may remove it.
const AnnotationDrained = "berth.dev/drained"

// Change is a patch of an object's labels and annotations; nil takes one away.
type Change struct {
	Labels, Annotations map[string]*string
	// Text says what it does, or why there is nothing to do.
	Text string
}

// Empty reports whether there is nothing to do.
func (c Change) Empty() bool { return len(c.Labels)+len(c.Annotations) == 0 }

// Patch returns the change as a merge patch (RFC 7386).
func (c Change) Patch() map[string]any {
	metadata := map[string]any{}
	if len(c.Labels) > 0 {
		metadata["labels"] = c.Labels
	}
	if len(c.Annotations) > 0 {
		metadata["annotations"] = c.Annotations
	}
	return map[string]any{"metadata": metadata}
}

// Apply makes the change to an object here.
func (c Change) Apply(o metav1.Object) {
	edit := func(all map[string]string, changes map[string]*string) map[string]string {
		if all == nil {
			all = map[string]string{}
		}
		for name, value := range changes {
			if value == nil {
				delete(all, name)
			} else {
				all[name] = *value
			}
		}
		return all
	}
	o.SetLabels(edit(o.GetLabels(), c.Labels))
	o.SetAnnotations(edit(o.GetAnnotations(), c.Annotations))
}

// Drain takes a node out of load balancing.
func Drain(n *corev1.Node) Change {
	if _, labeled := n.Labels[v1alpha1.ExcludeLabel]; labeled {
		text := fmt.Sprintf("node %s has the label %s already", n.Name, v1alpha1.ExcludeLabel)
		if _, ours := n.Annotations[AnnotationDrained]; !ours {
			text += ", which somebody else set: drain --undo will leave it"
		}
		return Change{Text: text}
	}
	return Change{
		Labels:      map[string]*string{v1alpha1.ExcludeLabel: new("")},
		Annotations: map[string]*string{AnnotationDrained: new("true")},
		Text:        fmt.Sprintf("node %s is taken out of load balancing (label %s)", n.Name, v1alpha1.ExcludeLabel),
	}
}

// Undo takes a node back that Drain took out. The error says that somebody else did.
func Undo(n *corev1.Node) (Change, error) {
	_, labeled := n.Labels[v1alpha1.ExcludeLabel]
	_, ours := n.Annotations[AnnotationDrained]
	switch {
	case labeled && !ours:
		return Change{}, fmt.Errorf(
			"node %s: drain did not set its label %s, so it stays; if it is yours, take it away with kubectl label node %s %s-",
			n.Name,
			v1alpha1.ExcludeLabel,
			n.Name,
			v1alpha1.ExcludeLabel,
		)
	case !labeled && !ours:
		return Change{Text: fmt.Sprintf("node %s is not drained", n.Name)}, nil
	}
	c := Change{Annotations: map[string]*string{AnnotationDrained: nil}}
	if labeled {
		c.Labels = map[string]*string{v1alpha1.ExcludeLabel: nil}
	}
	without := n.DeepCopy()
	delete(without.Labels, v1alpha1.ExcludeLabel)
	c.Text = fmt.Sprintf("node %s is taken back into load balancing", n.Name)
	if still := candidate.Exclusion(without); still != "" {
		c.Text = fmt.Sprintf("node %s loses its label, but stays out of load balancing, for it %s", n.Name, still)
	}
	return c, nil
}

// Left says what a node that is drained still does, "" if nothing. A speaker that is nil, or has
// ended, announces nothing by BGP.
func Left(node string, speaker *v1alpha1.Speaker, owners []*v1alpha1.L2Owner) string {
	var left []string
	for _, o := range owners {
		if o.Status.NodeName == node && !o.Status.Tentative {
			left = append(left, o.Status.Address)
		}
	}
	slices.Sort(left)
	left = slices.Compact(left)
	var texts []string
	if len(left) > 0 {
		texts = append(texts, "answers for "+few(left))
	}
	if speaker != nil {
		state, _ := speaker.Status.State()
		switch prefixes := speaker.Status.PrefixesAnnounced; {
		case state.Ended():
		case state == v1alpha1.SpeakerAnnouncing:
			texts = append(texts, "announces still")
		case prefixes != nil && *prefixes > 0:
			texts = append(texts, fmt.Sprintf("announces %d prefixes by BGP", *prefixes))
		}
	}
	return strings.Join(texts, " and ")
}

// Returned says what keeps a node that is taken back from announcing, "" if nothing.
func Returned(node string, speaker *v1alpha1.Speaker) string {
	if speaker == nil {
		return "has no speaker"
	}
	state, why := speaker.Status.State()
	if state == v1alpha1.SpeakerAnnouncing {
		return ""
	}
	return fmt.Sprintf("has a speaker that is %s: %s", state, why)
}

// few names at most four.
func few(names []string) string {
	if len(names) > 4 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}
