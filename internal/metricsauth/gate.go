// Package metricsauth serves metrics to those who may read them: over TLS, to requests with a token
// of the cluster whose owner may get the path, by the rules of RBAC.
//
// Begin with Gate (gate.go), then Certificate (certificate.go).
//
// The helpers of k8s.io/apiserver do the same, and bring some hundred packages with them, CEL and
// OpenTelemetry among them.
package metricsauth

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"golang.org/x/time/rate"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"
)

const (
	allowedFor  = time.Minute // how long a right that was taken away still counts at most
	deniedFor   = 10 * time.Second
	askWithin   = 5 * time.Second
	asksAtOnce  = 20 // questions to the API server, so that strangers with tokens of their own do not flood it
	asksPerTime = 5  // a second
)

// Gate lets requests through whose token the API server knows (TokenReview), and whose owner may
// get their path (SubjectAccessReview of a nonResourceURL). Make one with NewGate.
type Gate struct {
	kubernetes kubernetes.Interface
	next       http.Handler
	logger     *slog.Logger
	answers    *cache.Expiring // statuses of HTTP, by question
	pace       *rate.Limiter
}

// question is what the API server is asked.
type question struct {
	token      [sha256.Size]byte // its hash, so that no token stays in memory
	verb, path string
}

// NewGate returns a Gate before next. It asks by the client, which needs the rights of the
// ClusterRole system:auth-delegator.
func NewGate(client kubernetes.Interface, logger *slog.Logger, next http.Handler) *Gate {
	return &Gate{
		kubernetes: client,
		next:       next,
		logger:     logger,
		answers:    cache.NewExpiring(),
		pace:       rate.NewLimiter(asksPerTime, asksAtOnce),
	}
}

// ServeHTTP lets a request through, or answers 401 without a token that is known, 403 without the
// right, 429 when too many are asked about, and 503 when the API server does not answer.
func (g *Gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status := g.status(r)
	switch status {
	case http.StatusOK:
		g.next.ServeHTTP(w, r)
		return
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	http.Error(w, http.StatusText(status), status)
}

// status returns the status of HTTP for the request. 200: it may pass.
func (g *Gate) status(r *http.Request) int {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return http.StatusUnauthorized
	}
	q := question{token: sha256.Sum256([]byte(token)), verb: strings.ToLower(r.Method), path: r.URL.Path}
	if known, ok := g.answers.Get(q); ok {
		if status, ok := known.(int); ok {
			return status
		}
	}
	if !g.pace.Allow() {
		return http.StatusTooManyRequests
	}
	ctx, cancel := context.WithTimeout(r.Context(), askWithin)
	defer cancel()
	status, err := g.ask(ctx, token, q)
	if err != nil {
		g.logger.Warn("the API server did not say who may read the metrics", "error", err)
		return http.StatusServiceUnavailable
	}
	life := deniedFor
	if status == http.StatusOK {
		life = allowedFor
	}
	g.answers.Set(q, status, life)
	return status
}

// ask asks the API server whose token it is, and whether that one has the right.
func (g *Gate) ask(ctx context.Context, token string, q question) (int, error) {
	review, err := g.kubernetes.AuthenticationV1().TokenReviews().Create(
		ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}},
		metav1.CreateOptions{},
	)
	if err != nil {
		return 0, fmt.Errorf("review a token: %w", err)
	}
	if !review.Status.Authenticated {
		return http.StatusUnauthorized, nil
	}
	user := review.Status.User
	extra := map[string]authorizationv1.ExtraValue{}
	for key, values := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	access, err := g.kubernetes.AuthorizationV1().SubjectAccessReviews().Create(
		ctx,
		&authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: q.path, Verb: q.verb},
		}},
		metav1.CreateOptions{},
	)
	switch {
	case err != nil:
		return 0, fmt.Errorf("review the access of %s: %w", user.Username, err)
	case !access.Status.Allowed:
		return http.StatusForbidden, nil
	}
	return http.StatusOK, nil
}
