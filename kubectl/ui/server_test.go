package ui

import (
	"bufio"
	"context"
	"encoding/json"
	"io/fs"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/berth-lb/berth/kubectl/dashboard"
	"github.com/berth-lb/berth/kubectl/why"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves the page until the test ends. It knows one Service, shop/web.
func start(t *testing.T) *Server {
	t.Helper()
	s, err := Listen(0, func(_ context.Context, namespace, name string) (*why.Report, error) {
		if namespace != "shop" || name != "web" {
			return nil, nil
		}
		return &why.Report{Namespace: namespace, Name: name, Verdict: "it is well"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return s
}

// request asks the server as the page does that has this token. The caller closes the body.
func request(t *testing.T, s *Server, method, path, host, token string) *http.Response {
	t.Helper()
	at, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+at.Host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		r.Host = strings.ReplaceAll(host, "PORT", at.Port())
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestOnlyTheUsersBrowserIsLetIn(t *testing.T) {
	s := start(t)
	for name, c := range map[string]struct {
		method, path, host, token string
		want                      int
	}{
		"the page":                        {"GET", "/", "", "", 200},
		"a script":                        {"GET", "/app.js", "", "", 200},
		"by another name of this machine": {"GET", "/events", "localhost:PORT", s.token, 200},
		"by IPv6":                         {"GET", "/events", "[::1]:PORT", s.token, 200},
		"data without the token":          {"GET", "/events", "", "", 403},
		"with a wrong token":              {"GET", "/events", "", s.token + "x", 403},
		"with the token in the URL":       {"GET", "/events?token=" + s.token, "", "", 403},
		"a name that leads here":          {"GET", "/events", "evil.example:PORT", s.token, 421},
		"the page by such a name":         {"GET", "/", "evil.example:PORT", "", 421},
		"another port":                    {"GET", "/events", "localhost:1", s.token, 421},
		"no port":                         {"GET", "/events", "localhost", s.token, 421},
		"a write":                         {"POST", "/events", "", s.token, 405},
		"a deletion":                      {"DELETE", "/why/shop/web", "", s.token, 405},
		"why a Service is as it is":       {"GET", "/why/shop/web", "", s.token, 200},
		"why without the token":           {"GET", "/why/shop/web", "", "", 403},
		"why of no Service":               {"GET", "/why/shop/no", "", s.token, 404},
	} {
		t.Run(name, func(t *testing.T) {
			answer := request(t, s, c.method, c.path, c.host, c.token)
			defer answer.Body.Close()
			if answer.StatusCode != c.want {
				t.Errorf("%s %s: %s, want %d", c.method, c.path, answer.Status, c.want)
			}
			for header, want := range map[string]string{
				"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
			} {
				if got := answer.Header.Get(header); got != want {
					t.Errorf("%s: %q, want %q", header, got, want)
				}
			}
			policy := answer.Header.Get("Content-Security-Policy")
			if !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
				t.Errorf("Content-Security-Policy: %s", policy)
			}
		})
	}
}

// The secret is in no cookie, which other servers on this machine would get, and in no part of the
// URL that is sent.
func TestTheTokenStaysInTheBrowser(t *testing.T) {
	s := start(t)
	at, err := url.Parse(s.URL())
	if err != nil || at.RawQuery != "" || at.Fragment != "token="+s.token {
		t.Errorf("URL %s: %v", s.URL(), err)
	}
	answer := request(t, s, "GET", "/", "", "")
	defer answer.Body.Close()
	if cookies := answer.Cookies(); len(cookies) > 0 {
		t.Errorf("cookies: %v", cookies)
	}
	if len(s.token) < 26 {
		t.Errorf("the token %q can be guessed", s.token)
	}
}

// A page gets what there is, each change, and nothing after it has left.
func TestStream(t *testing.T) {
	s := start(t)
	show := func(title string) {
		t.Helper()
		if err := s.Show(dashboard.Frame{Title: title, Snapshot: &dashboard.Snapshot{}}); err != nil {
			t.Fatal(err)
		}
	}
	show("first")
	answer := request(t, s, "GET", "/events", "", s.token)
	defer answer.Body.Close()
	if got := answer.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type: %s", got)
	}
	lines := bufio.NewScanner(answer.Body)
	frames := make(chan string)
	go func() {
		defer close(frames)
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				var f dashboard.Frame
				if err := json.Unmarshal([]byte(data), &f); err != nil {
					t.Error(err)
				}
				frames <- f.Title
			}
		}
	}()
	next := func() string {
		t.Helper()
		select {
		case title := <-frames:
			return title
		case <-time.After(10 * time.Second):
			t.Fatal("nothing comes")
			return ""
		}
	}
	if got := next(); got != "first" {
		t.Errorf("at first it sends %q", got)
	}
	show("second")
	if got := next(); got != "second" {
		t.Errorf("after a change it sends %q", got)
	}
	_ = answer.Body.Close() // goleak sees whether the server notices
	for range frames {
	}
}

// The page needs nothing from anywhere: what it consists of names no other place but a namespace of
// XML.
func TestAssetsAreSelfContained(t *testing.T) {
	link := regexp.MustCompile(`(https?:)?//[a-z0-9.]+\.[a-z]+[^\s"']*`)
	inline := regexp.MustCompile(`(?i)<script>|\son[a-z]+=|\sstyle=|innerHTML|eval\(`)
	size := 0
	err := fs.WalkDir(assets, "assets", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := fs.ReadFile(assets, path)
		if err != nil {
			return err
		}
		size += len(text)
		for _, found := range link.FindAllString(string(text), -1) {
			if found != "http://www.w3.org/2000/svg" {
				t.Errorf("%s mentions %s", path, found)
			}
		}
		if found := inline.FindString(string(text)); found != "" {
			t.Errorf("%s has %q, which the Content-Security-Policy forbids", path, found)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if size > 64<<10 {
		t.Errorf("the page has %d bytes", size)
	}
}
