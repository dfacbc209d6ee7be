package main

import (
	"strings"
	"testing"
)

func TestParsePrefixes(t *testing.T) {
	got, err := parsePrefixes([]string{"10.244.1.7/24", " fd00::/64"})
	if err != nil || len(got) != 2 || got[0].String() != "10.244.1.0/24" || got[1].String() != "fd00::/64" {
		t.Errorf("ranges %v, %v", got, err)
	}
	if _, err := parsePrefixes([]string{"10.244.1.7"}); err == nil || !strings.Contains(err.Error(), `"10.244.1.7"`) {
		t.Errorf("an address is taken for a range: %v", err)
	}
}
