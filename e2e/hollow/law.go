package hollow

import "fmt"

// point is a figure measured at a size.
type point struct{ size, value float64 }

// line is the law value = fixed + each × size.
type line struct{ fixed, each float64 }

// fit returns the line through points with the least squares; of one point, or of one size, the
// mean without growth.
func fit(points []point) line {
	n := float64(len(points))
	if n == 0 {
		return line{}
	}
	var sumX, sumY, sumXX, sumXY float64
	for _, p := range points {
		sumX += p.size
		sumY += p.value
		sumXX += p.size * p.size
		sumXY += p.size * p.value
	}
	spread := n*sumXX - sumX*sumX
	if spread == 0 {
		return line{fixed: sumY / n}
	}
	each := (n*sumXY - sumX*sumY) / spread
	return line{fixed: (sumY - each*sumX) / n, each: each}
}

func (l line) at(size float64) float64 { return l.fixed + l.each*size }

func (l line) String() string { return fmt.Sprintf("%.4g + %.4g × size", l.fixed, l.each) }
