package condition

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
)

func TestApplyNews(t *testing.T) {
	is := func(message string) Condition {
		return Condition{Kind: v1alpha1.ServiceAnnounced, OK: true, Reason: "Announced", Message: message}
	}
	not := func(message string) Condition {
		return Condition{Kind: v1alpha1.ServiceAnnounced, Reason: "NoSpeaker", Message: message}
	}
	for _, c := range []struct {
		name          string
		before, after Condition
		news          bool
	}{
		{
			name:   "nothing changed",
			before: is("by SegmentAnnouncement l2"),
			after:  is("by SegmentAnnouncement l2"),
		},
		{
			name:   "it is announced now",
			before: not("nobody"),
			after:  is("by SegmentAnnouncement l2"),
			news:   true,
		},
		{
			name:   "another announcement",
			before: is("by SegmentAnnouncement l2"),
			after:  is("by RouteAnnouncement bgp"),
			news:   true,
		},
		{
			name:   "not announced, for the same reason on another node",
			before: not("n1"),
			after:  not("n2"),
			news:   true,
		},
	} {
		var list []metav1.Condition
		c.before.Apply(&list, 0, metav1.Now())
		if changed, news := c.after.Apply(&list, 0, metav1.Now()); changed != c.news || news != c.news {
			t.Errorf("%s: changed %v, news %v; want both %v", c.name, changed, news, c.news)
		}
		if changed, news := c.after.Apply(&list, 7, metav1.Now()); !changed || news {
			t.Errorf("%s: another generation: changed %v, news %v; want a change that is no news", c.name, changed, news)
		}
	}
}
