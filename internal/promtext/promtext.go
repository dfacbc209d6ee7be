// Package promtext carries metrics from one process to another, in Prometheus' text format.
package promtext

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Encode returns all metrics that can be had. The error says which cannot.
func Encode(from prometheus.Gatherer) ([]byte, error) {
	families, err := from.Gather()
	var text bytes.Buffer
	out := expfmt.NewEncoder(&text, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		if wrong := out.Encode(f); wrong != nil {
			err = errors.Join(err, fmt.Errorf("metric %s: %w", f.GetName(), wrong))
		}
	}
	return text.Bytes(), err
}

// Decode is the reverse of Encode.
func Decode(text []byte) ([]*dto.MetricFamily, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	return slices.Collect(maps.Values(families)), nil
}
