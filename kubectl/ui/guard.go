package ui

import (
	"crypto/subtle"
	"net"
	"net/http"
	"slices"
	"strings"
)

// policy lets the page load what it is served with, and nothing else; no script is inline.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"

// guard lets requests pass that read, and are meant for this server.
type guard struct {
	port string
	next http.Handler
}

func (g guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	switch {
	case !g.hostIsLocal(r.Host):
		// A name of somebody else's may lead here (DNS rebinding), and their page have this origin.
		http.Error(w, "this page has no such name", http.StatusMisdirectedRequest)
	case r.Method != http.MethodGet:
		h.Set("Allow", http.MethodGet)
		http.Error(w, "this page is only read", http.StatusMethodNotAllowed)
	default:
		g.next.ServeHTTP(w, r)
	}
}

func (g guard) hostIsLocal(host string) bool {
	name, port, err := net.SplitHostPort(host)
	if err != nil { // browsers leave out the port of HTTP
		name, port = strings.Trim(host, "[]"), "80"
	}
	return port == g.port && slices.Contains([]string{"127.0.0.1", "localhost", "::1"}, name)
}

// bearer lets requests pass that have the token. It is in a header, which no other page can send
// from a browser, and not in a cookie: those are sent to every port of a host.
func bearer(token string, next http.HandlerFunc) http.HandlerFunc {
	want := "Bearer " + token
	return func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte(want)) != 1 {
			http.Error(w, "open the URL that kubectl berth ui printed", http.StatusForbidden)
			return
		}
		next(w, r)
	}
}
