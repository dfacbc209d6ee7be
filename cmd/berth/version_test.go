package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/berth-lb/berth/internal/version"
)

var someBuild = version.Info{Version: "v1.2.3", Commit: "0123abcd", GoVersion: "go1.26.8", Platform: "linux/arm64"}

func TestPrintVersion(t *testing.T) {
	for _, test := range []struct{ format, want, wantError string }{
		{format: "text", want: "berth v1.2.3, commit 0123abcd, go1.26.8 linux/arm64\n"},
		{
			format: "json",
			want:   `{"version":"v1.2.3","commit":"0123abcd","goVersion":"go1.26.8","platform":"linux/arm64"}` + "\n",
		},
		{format: "xml", wantError: "--output xml: is not a format; write text or json"},
	} {
		t.Run(test.format, func(t *testing.T) {
			var out bytes.Buffer
			err := printVersion(&out, test.format, someBuild)
			if got := out.String(); got != test.want {
				t.Errorf("printed %q, want %q", got, test.want)
			}
			if (err == nil) != (test.wantError == "") || err != nil && err.Error() != test.wantError {
				t.Errorf("error %v, want %q", err, test.wantError)
			}
		})
	}
}

func TestVersionCommand(t *testing.T) {
	var out bytes.Buffer
	root := command()
	root.SetOut(&out)
	root.SetArgs([]string{"version"})
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := "berth " + version.Number() + ", commit "; !strings.HasPrefix(out.String(), want) {
		t.Errorf("printed %q, want it to begin with %q", out.String(), want)
	}
}

func TestBuildInfo(t *testing.T) {
	want := `
# HELP berth_build_info 1, with the program's version and what it was built from as labels.
# TYPE berth_build_info gauge
berth_build_info{commit="0123abcd",goversion="go1.26.8",version="v1.2.3"} 1
`
	if err := testutil.CollectAndCompare(buildInfo(someBuild), strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// Both programs serve what newRegistry returns.
func TestNewRegistry(t *testing.T) {
	n, err := testutil.GatherAndCount(newRegistry(), "berth_build_info", "go_info")
	if err != nil || n != 2 {
		t.Errorf("%d of berth_build_info and go_info, want both (%v)", n, err)
	}
}
