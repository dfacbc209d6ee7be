// Package rewind notices that the storage of the API server was restored to an older state.
//
// A watch goes on from the revision that its client saw last. After a restore that revision is in
// the future. The API server then opens the watch, and drops all events until its revision has
// caught up, so the client keeps a picture of a past that no longer exists (kubernetes#107457). So
// before a list or a watch goes on from a revision, the API server is asked for its own, of the
// same resource. If that is older, the client gets the answer "410 Gone", upon which informers list
// everything again.
package rewind

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// most bounds what is read of an answer: a list with the metadata of one object.
const most = 4 << 20

// Transport returns a round tripper that checks where lists and watches go on from. It calls found,
// from any goroutine, for each of them that goes on from the future.
func Transport(next http.RoundTripper, found func()) http.RoundTripper {
	return &transport{next, found}
}

type transport struct {
	next  http.RoundTripper
	found func()
}

// RoundTrip makes a request.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	query := r.URL.Query()
	from, err := strconv.ParseUint(query.Get("resourceVersion"), 10, 64)
	if r.Method != http.MethodGet || err != nil || from == 0 || query.Has("continue") {
		return t.next.RoundTrip(r)
	}
	now, refusal, err := t.revision(r, query)
	switch {
	case err != nil:
		return nil, err
	case refusal != nil:
		return refusal, nil
	case now >= from:
		return t.next.RoundTrip(r)
	}
	t.found()
	return gone(r, from, now)
}

// revision asks for the revision of what the request is about. What the API server refuses to say
// it would refuse the request itself: that answer is the second result.
func (t *transport) revision(r *http.Request, query url.Values) (uint64, *http.Response, error) {
	ask := r.Clone(r.Context())
	only := url.Values{"limit": {"1"}}
	for _, selector := range []string{"labelSelector", "fieldSelector"} {
		if query.Has(selector) {
			only.Set(selector, query.Get(selector))
		}
	}
	ask.URL.RawQuery = only.Encode()
	ask.Header.Set("Accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json")
	response, err := t.next.RoundTrip(ask)
	if err != nil {
		return 0, nil, err
	}
	if response.StatusCode != http.StatusOK {
		return 0, response, nil
	}
	defer response.Body.Close()
	var list struct {
		Metadata metav1.ListMeta `json:"metadata"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, most)).Decode(&list); err != nil {
		return 0, nil, fmt.Errorf("read the revision of %s: %w", r.URL.Path, err)
	}
	now, err := strconv.ParseUint(list.Metadata.ResourceVersion, 10, 64)
	if err != nil {
		return 0, nil, fmt.Errorf("read the revision of %s: %w", r.URL.Path, err)
	}
	return now, nil, nil
}

// gone is the answer of an API server that no longer has the revision.
func gone(r *http.Request, from, now uint64) (*http.Response, error) {
	text, err := json.Marshal(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Reason: metav1.StatusReasonExpired, Code: http.StatusGone,
		Message: fmt.Sprintf(
			"the storage of the API server was restored: its revision is %d, and not yet %d",
			now,
			from,
		),
	})
	if err != nil {
		return nil, fmt.Errorf("write a status: %w", err)
	}
	return &http.Response{
		Status: "410 Gone", StatusCode: http.StatusGone, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header:  http.Header{"Content-Type": {"application/json"}},
		Body:    io.NopCloser(strings.NewReader(string(text))),
		Request: r, ContentLength: int64(len(text)),
	}, nil
}
