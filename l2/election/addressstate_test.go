package election

import (
	"reflect"
	"testing"
)

// Desired states are equal if their values are, in whatever memory, and each field counts.
func TestDesired_Equal(t *testing.T) {
	desired := func() Desired {
		return Desired{
			Announced: true, Interfaces: []string{"eth0"}, Candidates: []string{"a", "b"},
			Preferred: map[string]int32{"a": 1}, Rank: "192.0.2.1", Needs: 1, Exempt: []string{"b"},
		}
	}
	one := desired()
	if same := one; !one.Equal(same) || !one.Equal(desired()) {
		t.Error("one is not equal to itself, or not to its like")
	}
	fields := reflect.TypeFor[Desired]()
	for i := range fields.NumField() {
		without, other := desired(), desired()
		reflect.ValueOf(&without).Elem().Field(i).SetZero()
		if one.Equal(without) || without.Equal(one) {
			t.Errorf("one without %s is equal", fields.Field(i).Name)
		}
		switch f := reflect.ValueOf(&other).Elem().Field(i); f.Kind() {
		case reflect.Slice:
			f.Index(0).SetString("c")
		case reflect.Map:
			f.SetMapIndex(reflect.ValueOf("a"), reflect.ValueOf(int32(2)))
		default:
			continue
		}
		if one.Equal(other) || other.Equal(one) {
			t.Errorf("one with other %s is equal", fields.Field(i).Name)
		}
	}
}
