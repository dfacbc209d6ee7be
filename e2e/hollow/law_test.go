package hollow

import (
	"math"
	"testing"
)

func TestFit(t *testing.T) {
	for name, test := range map[string]struct {
		points []point
		want   line
	}{
		"nothing":     {nil, line{}},
		"one point":   {[]point{{10, 3}}, line{3, 0}},
		"one size":    {[]point{{10, 3}, {10, 5}}, line{4, 0}},
		"a line":      {[]point{{10, 25}, {25, 55}, {50, 105}}, line{5, 2}},
		"least error": {[]point{{0, 0}, {1, 3}, {2, 0}}, line{1, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			got := fit(test.points)
			if math.Abs(got.fixed-test.want.fixed) > 1e-9 || math.Abs(got.each-test.want.each) > 1e-9 {
				t.Errorf("fit(%v) = %v, want %v", test.points, got, test.want)
			}
		})
	}
	if got := (line{5, 2}).at(500); got != 1005 {
		t.Errorf("5 + 2 × 500 = %v, want 1005", got)
	}
}
