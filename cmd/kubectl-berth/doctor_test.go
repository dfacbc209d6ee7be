package main

import (
	"strings"
	"testing"
	"time"
)

func TestProbingFlags(t *testing.T) {
	fine := probing{nodes: true, timeout: time.Minute, rate: 100}
	for _, c := range []struct {
		change func(*probing)
		want   string
	}{
		{func(*probing) {}, ""},
		{func(p *probing) { p.rate = 1000 }, ""},
		{func(p *probing) { p.rate = 0 }, "--rate 0: is no rate of questions; write 1 to 1000"},
		{func(p *probing) { p.rate = 1001 }, "--rate 1001"},
		{func(p *probing) { p.timeout = time.Second }, "--timeout 1s: is too short; write 10s or more"},
		{func(p *probing) { p.nodes, p.image = false, "berth" }, "write --nodes too"},
	} {
		p := fine
		c.change(&p)
		err := p.check(&common{})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", p, err, c.want)
		}
	}
}

// Where nobody can know whether the nodes have the image, it is said how to name one.
func TestImageOf(t *testing.T) {
	for _, c := range []struct{ flag, installed, want string }{
		{"mine", "theirs", "mine"}, {"mine", "", "mine"}, {"", "theirs", "theirs"},
	} {
		if image, note := (probing{image: c.flag}).imageOf(c.installed); image != c.want || note != "" {
			t.Errorf("%+v: %s, %s", c, image, note)
		}
	}
	image, note := probing{}.imageOf("")
	if !strings.HasPrefix(image, "localhost/berth:") || !strings.Contains(note, "--image") {
		t.Errorf("before an install: %s, %s", image, note)
	}
}
