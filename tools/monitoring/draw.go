package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	vgdraw "gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// drawn is what Prometheus answered to the queries of a panel.
type drawn struct {
	Title  string
	Unit   string
	Series []series
}

// series is one curve.
type series struct {
	Name   string
	Points [][2]any // seconds since 1970, and a number as a string, as Prometheus answers
}

func (s series) points() (plotter.XYs, error) {
	var points plotter.XYs
	for _, p := range s.Points {
		at, isNumber := p[0].(float64)
		text, isText := p[1].(string)
		if !isNumber || !isText {
			return nil, fmt.Errorf("series %s has the point %v", s.Name, p)
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("series %s: %w", s.Name, err)
		}
		if !math.IsNaN(value) && !math.IsInf(value, 0) {
			points = append(points, plotter.XY{X: at, Y: value})
		}
	}
	return points, nil
}

// columns of a picture.
const columns = 3

// draw draws each file of panels in from to a picture in to.
func draw(from, to string) error {
	files, err := filepath.Glob(filepath.Join(from, "*.json"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("%s has no results", from)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var panels []drawn
		if err := json.Unmarshal(text, &panels); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		picture := filepath.Join(to, strings.TrimSuffix(filepath.Base(file), ".json")+".png")
		if err := paint(panels, picture); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}

// paint draws panels beside and below each other.
func paint(panels []drawn, file string) error {
	rows := (len(panels) + columns - 1) / columns
	canvas := vgimg.New(columns*11*vg.Centimeter, vg.Length(rows)*7*vg.Centimeter)
	tiles := vgdraw.Tiles{
		Rows: rows, Cols: columns, PadX: vg.Centimeter / 2, PadY: vg.Centimeter / 2,
		PadTop: vg.Centimeter / 4, PadBottom: vg.Centimeter / 4, PadLeft: vg.Centimeter / 4, PadRight: vg.Centimeter / 2,
	}
	whole := vgdraw.New(canvas)
	for i, panel := range panels {
		p, err := panel.plot()
		if err != nil {
			return fmt.Errorf("%s: %w", panel.Title, err)
		}
		p.Draw(tiles.At(whole, i%columns, i/columns))
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := (vgimg.PngCanvas{Canvas: canvas}).WriteTo(out); err != nil {
		return err
	}
	return out.Close()
}

// mostNamed is how many curves the legend names.
const mostNamed = 8

func (d drawn) plot() (*plot.Plot, error) {
	p := plot.New()
	p.Title.Text, p.Y.Label.Text = d.Title, d.Unit
	p.X.Tick.Marker = plot.TimeTicks{Format: "15:04:05"}
	p.Legend.Top, p.Legend.TextStyle.Font.Size = true, 6
	p.Y.Min = 0
	p.Add(plotter.NewGrid())
	for i, s := range d.Series {
		points, err := s.points()
		if err != nil {
			return nil, err
		}
		if len(points) == 0 {
			continue
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return nil, err
		}
		line.Color, line.Dashes = plotutil.Color(i), plotutil.Dashes(i/7)
		p.Add(line)
		if i < mostNamed {
			p.Legend.Add(s.Name, line)
		}
	}
	p.Y.Max = max(p.Y.Max, 1e-3) * 1.3
	return p, nil
}
