package v1alpha1

import (
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Selector matches labels. All of matchLabels and matchExpressions must hold; {} matches
// everything.
//
// It is metav1.LabelSelector, but for null, such as a Helm value that rendered empty: the API
// server drops a null there, and what is left may be {}. Here the schema allows null, so that the
// rules see and refuse it. CEL has no other way than size(dyn(self)) to distinguish a null field
// from a missing one. A null that the client drops, as kubectl apply does without --server-side,
// does not get here.
//
// +kubebuilder:validation:MinProperties=0
// +kubebuilder:validation:XValidation:rule="(!has(self.matchLabels) || size(self.matchLabels) > 0) && (!has(self.matchExpressions) || size(self.matchExpressions) > 0) && size(dyn(self)) == (has(self.matchLabels) ? 1 : 0) + (has(self.matchExpressions) ? 1 : 0)",message="matchLabels and matchExpressions are neither empty nor null if they are written; all is {}"
// +kubebuilder:validation:XValidation:rule="!has(self.matchLabels) || self.matchLabels.all(key, type(dyn(self.matchLabels[key])) == string)",message="a label in matchLabels has no value; write one, \"\" for the empty value, or operator: Exists in matchExpressions for any value"
type Selector struct {
	// matchLabels are labels and the values that they must have.
	// +optional
	// +nullable
	// +kubebuilder:validation:MinProperties=0
	// +kubebuilder:validation:MaxProperties=64
	MatchLabels map[string]string `json:"matchLabels,omitempty"` //nolint:kubeapilinter // see above
	// matchExpressions are requirements for labels.
	// +optional
	// +nullable
	// +kubebuilder:validation:MinItems=0
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	MatchExpressions []SelectorRequirement `json:"matchExpressions,omitempty"` //nolint:kubeapilinter // see above
}

// SelectorRequirement is what must hold for one label.
//
// +kubebuilder:validation:XValidation:rule="self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : !has(self.values)",message="operators In and NotIn have one or more values; Exists and DoesNotExist have no field values"
type SelectorRequirement struct {
	// key of the label.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=317
	Key string `json:"key,omitempty"`
	// operator says what must hold: the label has one of the values (In), it has none of them or
	// does not exist (NotIn), it exists (Exists), or it does not (DoesNotExist).
	// +required
	Operator SelectorOperator `json:"operator,omitempty"`
	// values for operators In and NotIn.
	// +optional
	// +kubebuilder:validation:MinItems=0
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=0
	// +kubebuilder:validation:items:MaxLength=63
	// +listType=atomic
	Values []string `json:"values,omitempty"`
}

// SelectorOperator says what must hold for a label.
//
// +kubebuilder:validation:Enum=In;NotIn;Exists;DoesNotExist
type SelectorOperator string

// The operators.
const (
	SelectorIn           SelectorOperator = "In"
	SelectorNotIn        SelectorOperator = "NotIn"
	SelectorExists       SelectorOperator = "Exists"
	SelectorDoesNotExist SelectorOperator = "DoesNotExist"
)

// Everything reports whether the selector is {}.
func (s *Selector) Everything() bool { return len(s.MatchLabels)+len(s.MatchExpressions) == 0 }

// Compile returns what matches labels, or what is wrong with the selector.
func (s *Selector) Compile() (labels.Selector, error) {
	converted := &metav1.LabelSelector{MatchLabels: maps.Clone(s.MatchLabels)}
	for _, r := range s.MatchExpressions {
		converted.MatchExpressions = append(converted.MatchExpressions, metav1.LabelSelectorRequirement{
			Key: r.Key, Operator: metav1.LabelSelectorOperator(r.Operator), Values: slices.Clone(r.Values),
		})
	}
	return metav1.LabelSelectorAsSelector(converted)
}
