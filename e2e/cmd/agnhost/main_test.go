package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestCurlPrintsTheAnswer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.URL.Path))
	}))
	defer server.Close()
	var out strings.Builder
	err := curl(t.Context(), &out, []string{"-s", server.URL + "/hostname"})
	if err != nil || out.String() != "/hostname" {
		t.Errorf("curl prints %q, %v", out.String(), err)
	}
}

func TestDigPrintsAddresses(t *testing.T) {
	var out strings.Builder
	err := dig(t.Context(), &out, []string{"+short", "+search", "A", "127.0.0.1"})
	if err != nil || out.String() != "127.0.0.1\n" {
		t.Errorf("dig prints %q, %v", out.String(), err)
	}
}

// What it does not know it refuses, rather than ignore it.
func TestOtherArgumentsAreRefused(t *testing.T) {
	for _, args := range []string{"http://a/", "-v http://a/", "-s -H x http://a/"} {
		if err := curl(t.Context(), t.Output(), strings.Fields(args)); err == nil {
			t.Errorf("curl %s is accepted", args)
		}
	}
	for _, args := range []string{"web", "+short web", "+short +search MX web"} {
		if err := dig(t.Context(), t.Output(), strings.Fields(args)); err == nil {
			t.Errorf("dig %s is accepted", args)
		}
	}
}
