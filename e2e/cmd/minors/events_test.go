//go:build linux

package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	const events = `{"Action":"start"}
{"Action":"output","Output":"lab is up\n"}
{"Action":"run","Test":"TestGood"}
{"Action":"run","Test":"TestGood/part"}
{"Action":"output","Test":"TestGood/part","Output":"a good part\n"}
{"Action":"pass","Test":"TestGood/part"}
{"Action":"pass","Test":"TestGood"}
{"Action":"output","Test":"TestBad/part","Output":"a bad part\n"}
{"Action":"fail","Test":"TestBad/part"}
{"Action":"fail","Test":"TestBad"}
{"Action":"fail"}
`
	var r result
	var log strings.Builder
	if err := r.read(json.NewDecoder(strings.NewReader(events)), &log); err != nil {
		t.Fatal(err)
	}
	if r.Passed != 1 || !slices.Equal(r.Failed, []string{"TestBad"}) {
		t.Errorf("%d passed, failed %v; want 1 and TestBad", r.Passed, r.Failed)
	}
	if got, want := log.String(), "lab is up\na bad part\n"; got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
	if err := r.read(json.NewDecoder(strings.NewReader("no JSON")), &log); err == nil {
		t.Error("text that is not JSON was accepted")
	}
}
