package soak

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func TestPlot(t *testing.T) {
	p := Plot{Title: "soak <1>", Panels: []Panel{
		{
			Title: "gaps, s", Limit: 3,
			Series: []Series{
				{Name: "segment", Dots: true, Points: []Point{{At: 0, Value: 1}, {At: time.Minute, Value: 4}}},
			},
		},
		{
			Title: "memory, MiB",
			Series: []Series{
				{Name: "speaker", Points: []Point{{At: 0, Value: 50}, {At: 2 * time.Minute, Value: 100}}},
				{Name: "none"},
			},
		},
	}}
	var b strings.Builder
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	for decoder := xml.NewDecoder(strings.NewReader(b.String())); ; {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("it is no XML: %v\n%s", err, b.String())
		}
	}
	for _, want := range []string{
		`viewBox="0 0 1000 450"`,
		"soak &lt;1&gt;",
		`<circle cx="70.0" cy="180.0" r="2.5" fill="#1f77b4"/>`, // 1 of 5 s
		`<circle cx="440.0" cy="90.0" r="2.5" fill="#1f77b4"/>`, // in the middle of two minutes
		`<polyline points="70.0,345.0 810.0,270.0" fill="none" stroke="#1f77b4"/>`,
		`y1="120.0" x2="810.0" y2="120.0" stroke="#d62728"/>`, // the limit
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s is not in\n%s", want, b.String())
		}
	}
}
