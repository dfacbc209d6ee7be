//go:build linux

package hollow

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// counts are counters of the API server, by metric and the labels that matter.
type counts map[string]float64

// counted are the metrics of the API server that are read, and the labels that tell them apart.
var counted = map[string][]string{
	"apiserver_request_total":            {"verb", "resource", "subresource", "code"},
	"apiserver_watch_events_sizes_sum":   {"resource"},
	"apiserver_watch_events_sizes_count": {"resource"},
}

var labelPattern = regexp.MustCompile(`([a-z_]+)="([^"]*)"`)

// scrape reads the counters of the API server.
func (c *cluster) scrape(ctx context.Context) (counts, error) {
	text, err := c.kubernetes.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the API server's metrics: %w", err)
	}
	all := counts{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), "{")
		wanted, ok := counted[name]
		labels, value, found := strings.Cut(rest, "} ")
		if !ok || !found {
			continue
		}
		have := map[string]string{}
		for _, m := range labelPattern.FindAllStringSubmatch(labels, -1) {
			have[m[1]] = m[2]
		}
		key := name
		for _, label := range wanted {
			key += " " + have[label]
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("metric %s of the API server: %w", key, err)
		}
		all[key] += n
	}
	return all, lines.Err()
}

// since returns what was added to the counters.
func (c counts) since(before counts) counts {
	more := counts{}
	for key, n := range c {
		if d := n - before[key]; d > 0 {
			more[key] = d
		}
	}
	return more
}

// writes returns how many requests changed objects of a resource, refused ones included.
// subresource is "", or "status".
func (c counts) writes(resource, subresource string) float64 {
	sum := 0.0
	for key, n := range c {
		fields := strings.Split(key, " ")
		if fields[0] != "apiserver_request_total" || fields[2] != resource || fields[3] != subresource {
			continue
		}
		if slices.Contains([]string{"POST", "PUT", "PATCH", "APPLY", "DELETE"}, fields[1]) {
			sum += n
		}
	}
	return sum
}

// watched returns how many bytes of watch events were sent, by resource, before compression.
func (c counts) watched() map[string]float64 {
	found := map[string]float64{}
	for key, n := range c {
		if resource, ok := strings.CutPrefix(key, "apiserver_watch_events_sizes_sum "); ok {
			found[resource] = n
		}
	}
	return found
}

// String lists the writes, for a reader who looks for the reason of one.
func (c counts) String() string {
	var lines []string
	for _, key := range slices.Sorted(maps.Keys(c)) {
		rest, ok := strings.CutPrefix(key, "apiserver_request_total ")
		if ok && !strings.HasPrefix(rest, "GET") && !strings.HasPrefix(rest, "LIST") &&
			!strings.HasPrefix(rest, "WATCH") {
			lines = append(lines, fmt.Sprintf("%s: %.0f", rest, c[key]))
		}
	}
	return strings.Join(lines, ", ")
}
