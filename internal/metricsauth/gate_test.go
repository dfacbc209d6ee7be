package metricsauth

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// server is an API server that knows the tokens "prometheus" and "tenant". Only the owner of the
// first may get /metrics.
type server struct {
	*fake.Clientset
	asked int // about tokens
	away  bool
}

func newServer() *server {
	s := &server{Clientset: fake.NewClientset()}
	s.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		s.asked++
		if s.away {
			return true, nil, errors.New("connection refused")
		}
		review := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		if token := review.Spec.Token; token == "prometheus" || token == "tenant" {
			review.Status.Authenticated = true
			review.Status.User = authenticationv1.UserInfo{
				Username: token, UID: "uid", Groups: []string{"group"},
				Extra: map[string]authenticationv1.ExtraValue{"pod": {"one"}},
			}
		}
		return true, review, nil
	})
	s.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		review := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
		asks := review.Spec
		review.Status.Allowed = asks.User == "prometheus" && asks.UID == "uid" && asks.ResourceAttributes == nil &&
			*asks.NonResourceAttributes == authorizationv1.NonResourceAttributes{Path: "/metrics", Verb: "get"} &&
			fmt.Sprint(asks.Groups, asks.Extra) == "[group] map[pod:[one]]"
		return true, review, nil
	})
	return s
}

func get(g *Gate, authorization string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	r.Header.Set("Authorization", authorization)
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	return w
}

func newGate(s *server) *Gate {
	return NewGate(s, slog.New(slog.DiscardHandler), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, "berth_up 1")
	}))
}

func TestGate(t *testing.T) {
	for _, c := range []struct {
		name, authorization string
		away                bool
		want                int
		body                string
	}{
		{name: "no token", want: http.StatusUnauthorized, body: "Unauthorized\n"},
		{name: "a password", authorization: "Basic cHJvbWV0aGV1cw==", want: http.StatusUnauthorized, body: "Unauthorized\n"},
		{name: "an empty token", authorization: "Bearer ", want: http.StatusUnauthorized, body: "Unauthorized\n"},
		{name: "a token of nobody", authorization: "Bearer x", want: http.StatusUnauthorized, body: "Unauthorized\n"},
		{name: "a token without the right", authorization: "Bearer tenant", want: http.StatusForbidden, body: "Forbidden\n"},
		{name: "a token with the right", authorization: "bearer prometheus", want: http.StatusOK, body: "berth_up 1"},
		{
			name: "an API server that is away", authorization: "Bearer prometheus", away: true,
			want: http.StatusServiceUnavailable, body: "Service Unavailable\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer()
			s.away = c.away
			w := get(newGate(s), c.authorization)
			if w.Code != c.want || w.Body.String() != c.body {
				t.Errorf("status %d with %q, want %d with %q", w.Code, w.Body, c.want, c.body)
			}
			if asks := w.Header().Get("WWW-Authenticate"); (asks == "Bearer") != (c.want == http.StatusUnauthorized) {
				t.Errorf("WWW-Authenticate: %q", asks)
			}
		})
	}
}

func TestGateRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		g := newGate(s)
		for _, step := range []struct {
			after time.Duration
			token string
			asked int
		}{
			{token: "prometheus", asked: 1},
			{after: 59 * time.Second, token: "prometheus", asked: 1},
			{after: time.Second, token: "prometheus", asked: 2},
			{token: "tenant", asked: 3},
			{after: 9 * time.Second, token: "tenant", asked: 3},
			{after: time.Second, token: "tenant", asked: 4},
		} {
			<-time.After(step.after) // of the test's own clock
			if get(g, "Bearer "+step.token); s.asked != step.asked {
				t.Errorf("asked %d times, want %d", s.asked, step.asked)
			}
		}
	})
}

func TestGatePace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		g := newGate(s)
		get(g, "Bearer prometheus")
		for i := range 100 {
			get(g, fmt.Sprint("Bearer ", i))
		}
		if s.asked != asksAtOnce {
			t.Errorf("asked %d times at once, want %d", s.asked, asksAtOnce)
		}
		if w := get(g, "Bearer another"); w.Code != http.StatusTooManyRequests {
			t.Errorf("status %d for a stranger", w.Code)
		}
		if w := get(g, "Bearer prometheus"); w.Code != http.StatusOK {
			t.Errorf("status %d for a token that is known", w.Code)
		}
		<-time.After(time.Second) // of the test's own clock
		if w := get(g, "Bearer another"); w.Code != http.StatusUnauthorized {
			t.Errorf("status %d for a stranger later", w.Code)
		}
	})
}
