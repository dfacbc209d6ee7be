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

// request asks the server as a browser does that has this cookie. The caller closes the body.
func request(t *testing.T, s *Server, method, path, host, cookie string) *http.Response {
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
	if cookie != "" {
		r.AddCookie(&http.Cookie{Name: "berth-" + at.Port(), Value: cookie})
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
		method, path, host, cookie string
		want                       int
	}{
		"the URL that is printed":          {"GET", "/?token=" + s.token, "", "", 200},
		"by another name of this machine":  {"GET", "/?token=" + s.token, "localhost:PORT", "", 200},
		"by IPv6":                          {"GET", "/?token=" + s.token, "[::1]:PORT", "", 200},
		"without the token":                {"GET", "/", "", "", 403},
		"with a wrong token":               {"GET", "/?token=" + s.token + "x", "", "", 403},
		"with an empty token":              {"GET", "/?token=", "", "", 403},
		"with the cookie":                  {"GET", "/", "", s.token, 200},
		"with a wrong cookie":              {"GET", "/events", "", "guess", 403},
		"another part with the token only": {"GET", "/events?token=" + s.token, "", "", 403},
		"a name that leads here":           {"GET", "/?token=" + s.token, "evil.example:PORT", s.token, 421},
		"another port":                     {"GET", "/?token=" + s.token, "localhost:1", s.token, 421},
		"no port":                          {"GET", "/?token=" + s.token, "localhost", s.token, 421},
		"a write":                          {"POST", "/?token=" + s.token, "", s.token, 405},
		"a deletion":                       {"DELETE", "/why/shop/web", "", s.token, 405},
		"a script":                         {"GET", "/app.js", "", s.token, 200},
		"a script without the cookie":      {"GET", "/app.js", "", "", 403},
		"why a Service is as it is":        {"GET", "/why/shop/web", "", s.token, 200},
		"why of no Service":                {"GET", "/why/shop/no", "", s.token, 404},
	} {
		t.Run(name, func(t *testing.T) {
			answer := request(t, s, c.method, c.path, c.host, c.cookie)
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

func TestTheCookieIsOnlyForThisPage(t *testing.T) {
	s := start(t)
	answer := request(t, s, "GET", "/?token="+s.token, "", "")
	defer answer.Body.Close()
	cookies := answer.Cookies()
	if len(cookies) != 1 || !cookies[0].HttpOnly || cookies[0].SameSite != http.SameSiteStrictMode {
		t.Errorf("cookies: %v, want one that is HttpOnly and SameSite=Strict", cookies)
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
