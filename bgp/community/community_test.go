package community

import (
	"slices"
	"strings"
	"testing"
)

func TestCommunitiesAreReadAsOperatorsWriteThem(t *testing.T) {
	for text, want := range map[string]Community{
		"65000:100":          {A: 65000, B: 100},
		"0:0":                {},
		"65535:65281":        {A: 65535, B: 0xff01},
		"no-export":          {A: 65535, B: 0xff01},
		"graceful-shutdown":  GracefulShutdown,
		"4200000000:1:2":     {Large: true, Global: 4200000000, A: 1, B: 2},
		"4294967295:0:65536": {Large: true, Global: 4294967295, B: 65536},
	} {
		got, err := Parse(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
		again, err := Parse(got.String())
		if err != nil || again != got {
			t.Errorf("%s: written as %s, which reads as %+v, %v", text, got, again, err)
		}
	}
}

func TestWhatIsNoCommunityIsRefusedWithItsText(t *testing.T) {
	for _, text := range []string{
		"", "65000", "65536:1", "1:65536", "1:2:3:4", "4294967296:1:1", "-1:2", "+1:2", "01:2", "a:b", "65000:", ":1",
		"NO-EXPORT", "1: 2",
	} {
		if c, err := Parse(text); err == nil {
			t.Errorf("%q was read as %s", text, c)
		} else if !strings.Contains(err.Error(), text) {
			t.Errorf("%q: the error does not name it: %v", text, err)
		}
	}
}

func TestStandardCommunitiesComeBeforeLargeOnes(t *testing.T) {
	list := []Community{{Large: true, Global: 1}, {A: 2}, {Large: true}, {A: 1, B: 5}, {A: 1, B: 4}}
	slices.SortFunc(list, Compare)
	want := []Community{{A: 1, B: 4}, {A: 1, B: 5}, {A: 2}, {Large: true}, {Large: true, Global: 1}}
	if !slices.Equal(list, want) {
		t.Errorf("%v, want %v", list, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("65000:1")
	f.Add("1:2:3")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text)
		if err != nil {
			return
		}
		if again, err := Parse(c.String()); err != nil || again != c {
			t.Errorf("%q reads as %+v, written as %s, which reads as %+v, %v", text, c, c, again, err)
		}
	})
}
