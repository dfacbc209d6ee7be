package migrate

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
)

// everything is the selector of all.
func everything() *v1alpha1.Selector { return &v1alpha1.Selector{} }

// selectorOf converts a selector; none is all.
func selectorOf(s *metav1.LabelSelector) *v1alpha1.Selector {
	converted := everything()
	if s == nil {
		return converted
	}
	if len(s.MatchLabels) > 0 {
		converted.MatchLabels = s.MatchLabels
	}
	for _, r := range s.MatchExpressions {
		converted.MatchExpressions = append(converted.MatchExpressions, v1alpha1.SelectorRequirement{
			Key: r.Key, Operator: v1alpha1.SelectorOperator(r.Operator), Values: r.Values,
		})
	}
	return converted
}

// anyOf returns selectors that together match what these match: {} for none, and a single one if
// all of them list values of the same label.
func anyOf(selectors []metav1.LabelSelector) []*v1alpha1.Selector {
	if len(selectors) == 0 {
		return []*v1alpha1.Selector{everything()}
	}
	var all []*v1alpha1.Selector
	joined := v1alpha1.SelectorRequirement{Operator: v1alpha1.SelectorIn}
	joins := len(selectors) > 1
	for i := range selectors {
		s := selectorOf(&selectors[i])
		all = append(all, s)
		key, values := valuesIn(s)
		joins = joins && key != "" && (i == 0 || key == joined.Key)
		joined.Key = key
		joined.Values = append(joined.Values, values...)
	}
	if joins {
		return []*v1alpha1.Selector{{MatchExpressions: []v1alpha1.SelectorRequirement{joined}}}
	}
	return all
}

// valuesIn returns the label that a selector lists values of, if it does nothing else.
func valuesIn(s *v1alpha1.Selector) (key string, values []string) {
	if len(s.MatchLabels)+len(s.MatchExpressions) != 1 {
		return "", nil
	}
	for key, value := range s.MatchLabels {
		return key, []string{value}
	}
	if r := s.MatchExpressions[0]; r.Operator == v1alpha1.SelectorIn {
		return r.Key, r.Values
	}
	return "", nil
}

// announcement is what announcements on a segment and by BGP have in common.
type announcement struct {
	poolNames              []string
	pools, nodes, services *v1alpha1.Selector
}

// announcements returns one for each combination of pools, nodes and Services: lists of selectors
// mean that one of them matches, as several announcements do.
func announcements(
	poolNames []string, pools, nodes, services []metav1.LabelSelector,
) (all []announcement) {
	choices := []announcement{}
	if len(poolNames) > 0 {
		choices = append(choices, announcement{poolNames: poolNames})
	}
	if len(poolNames) == 0 || len(pools) > 0 {
		for _, s := range anyOf(pools) {
			choices = append(choices, announcement{pools: s})
		}
	}
	for _, a := range choices {
		for _, a.nodes = range anyOf(nodes) {
			for _, a.services = range anyOf(services) {
				all = append(all, a)
			}
		}
	}
	return all
}

// addSegment puts out a SegmentAnnouncement.
func (c *converter) addSegment(i item, wanted string, a announcement, interfaces []string) {
	o := &v1alpha1.SegmentAnnouncement{Spec: v1alpha1.SegmentAnnouncementSpec{
		PoolNames: a.poolNames, PoolSelector: a.pools, NodeSelector: a.nodes, ServiceSelector: a.services,
		Interfaces: interfaces,
	}}
	o.Name = c.nameFor("SegmentAnnouncement", i, wanted)
	where := ""
	if len(interfaces) == 0 {
		where = "on the interfaces that have an InternalIP of their node; write spec.interfaces for others"
	}
	c.add(i.from, "SegmentAnnouncement", o, where)
	c.excluded(i.from, "SegmentAnnouncement "+o.Name, a.nodes)
}

// addRoute puts out a RouteAnnouncement with these attributes.
func (c *converter) addRoute(i item, wanted string, a announcement, spec v1alpha1.RouteAnnouncementSpec) {
	spec.PoolNames, spec.PoolSelector, spec.NodeSelector, spec.ServiceSelector = a.poolNames, a.pools, a.nodes, a.services
	o := &v1alpha1.RouteAnnouncement{Spec: spec}
	o.Name = c.nameFor("RouteAnnouncement", i, wanted)
	c.add(i.from, "RouteAnnouncement", o)
	c.excluded(i.from, "RouteAnnouncement "+o.Name, a.nodes)
}

// excluded reports nodes of the control plane that an announcement asks for: kubeadm gives them a
// label that keeps Berth from announcing there.
func (c *converter) excluded(from, object string, nodes *v1alpha1.Selector) {
	role := ""
	for _, label := range []string{"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"} {
		if value, is := nodes.MatchLabels[label]; is {
			role = label + "=" + value
		}
		for _, r := range nodes.MatchExpressions {
			if r.Key == label && (r.Operator == v1alpha1.SelectorExists || r.Operator == v1alpha1.SelectorIn) {
				role = label
			}
		}
	}
	if role != "" {
		c.note(from, object+": nodeSelector", role, fmt.Sprintf(exclusion, "-l "+strings.TrimSuffix(role, "=")))
	}
}

// exclusion is what to do about nodes of the control plane.
const exclusion = "Berth announces from no node with the label " + corev1.LabelNodeExcludeBalancers + ", which kubeadm " +
	"gives to the control plane; take it off: kubectl label nodes %s " + corev1.LabelNodeExcludeBalancers + "-"

// simple is a regular expression that a shell pattern can say.
var simple = regexp.MustCompile(`^\^?[A-Za-z0-9_@:-]*(\[0-9\]\+|\[0-9\]\*|\\d\+|[.][*+])?\$?$`)

// shellPattern converts a regular expression for names of interfaces. One that may match in the
// midst of a name is taken to mean its beginning: eth.* is not meant for the veth of a Pod. One
// that a shell pattern cannot say is reported.
func (c *converter) shellPattern(from, field, expression string) (pattern string, ok bool) {
	if !simple.MatchString(expression) || strings.Trim(expression, "^$") == "" {
		c.lacks(from, field, expression,
			"Berth has names and shell patterns for interfaces, such as eth*; write those into spec.interfaces")
		return "", false
	}
	body, begins := strings.CutPrefix(expression, "^")
	body, ends := strings.CutSuffix(body, "$")
	pattern = strings.NewReplacer("[0-9]+", "[0-9]*", "[0-9]*", "*", `\d+`, "[0-9]*", ".*", "*", ".+", "?*").
		Replace(body)
	if begins && !ends && !strings.HasSuffix(pattern, "*") {
		pattern += "*"
	}
	return pattern, true
}
