package soak

import (
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// Point is a value at a time since the beginning.
type Point struct {
	At    time.Duration
	Value float64
}

// Series are points with a name, drawn as a line, or as dots.
type Series struct {
	Name   string
	Dots   bool
	Points []Point
}

// Panel is one diagram over time. Limit is a line across it; 0: none.
type Panel struct {
	Title  string
	Limit  float64
	Series []Series
}

// Plot is some panels one above the other. It writes itself as SVG: gonum.org/v1/plot, which draws
// anything, would bring nine modules of fonts, LaTeX and PDF for a few lines and dots.
type Plot struct {
	Title  string
	Panels []Panel
}

const (
	plotWidth, panelHeight   = 1000, 210
	plotLeft, plotRight      = 70, 190 // of the panel: numbers, and names of series
	panelTop, panelBottom    = 30, 30
	headHeight               = 30
	labelsAcross, labelsHigh = 6, 4
)

var colors = []string{"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b"}

// Write writes the plot.
func (p Plot) Write(w io.Writer) error {
	var b strings.Builder
	height := headHeight + len(p.Panels)*panelHeight
	fmt.Fprintf(
		&b,
		`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+
			"\n"+`<rect width="100%%" height="100%%" fill="white"/>`+"\n",
		plotWidth,
		height,
	)
	text(&b, plotLeft, 20, "start", "#000", p.Title)
	var until time.Duration
	for _, panel := range p.Panels {
		for _, s := range panel.Series {
			for _, point := range s.Points {
				until = max(until, point.At)
			}
		}
	}
	for i, panel := range p.Panels {
		panel.write(&b, headHeight+i*panelHeight, max(until, time.Second))
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (p Panel) write(b *strings.Builder, top int, until time.Duration) {
	highest := p.Limit
	for _, s := range p.Series {
		for _, point := range s.Points {
			highest = max(highest, point.Value)
		}
	}
	highest = ceiling(highest)
	left, right := float64(plotLeft), float64(plotWidth-plotRight)
	high, low := float64(top+panelTop), float64(top+panelHeight-panelBottom)
	x := func(at time.Duration) float64 { return left + (right-left)*at.Seconds()/until.Seconds() }
	y := func(value float64) float64 { return low - (low-high)*value/highest }
	text(b, left, high-8, "start", "#000", p.Title)
	for i := range labelsHigh + 1 {
		value := highest * float64(i) / labelsHigh
		line(b, left, y(value), right, y(value), "#ddd")
		text(b, left-6, y(value)+4, "end", "#444", fmt.Sprintf("%.4g", value))
	}
	for i := range labelsAcross + 1 {
		at := until * time.Duration(i) / labelsAcross
		text(b, x(at), low+16, "middle", "#444", at.Round(time.Second).String())
	}
	if p.Limit > 0 {
		line(b, left, y(p.Limit), right, y(p.Limit), "#d62728")
	}
	for i, s := range p.Series {
		color := colors[i%len(colors)]
		text(b, right+10, high+float64(16*i)+8, "start", color, s.Name)
		var places []string
		for _, point := range s.Points {
			if s.Dots {
				fmt.Fprintf(
					b,
					`<circle cx="%.1f" cy="%.1f" r="2.5" fill="%s"/>`+"\n",
					x(point.At),
					y(point.Value),
					color,
				)
			}
			places = append(places, fmt.Sprintf("%.1f,%.1f", x(point.At), y(point.Value)))
		}
		if !s.Dots {
			fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s"/>`+"\n", strings.Join(places, " "), color)
		}
	}
}

// ceiling returns the next number above that is 1, 2 or 5 with zeros.
func ceiling(value float64) float64 {
	if value <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(value)))
	for _, n := range []float64{1, 2, 5} {
		if value <= n*unit {
			return n * unit
		}
	}
	return 10 * unit
}

func line(b *strings.Builder, x1, y1, x2, y2 float64, color string) {
	fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, color)
}

func text(b *strings.Builder, x, y float64, anchor, color, words string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s">`, x, y, anchor, color)
	_ = xml.EscapeText(b, []byte(words)) // a Builder does not fail
	b.WriteString("</text>\n")
}
