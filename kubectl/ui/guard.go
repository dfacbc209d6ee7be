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

// guard lets requests pass that come from the user's browser, read, and are meant for this server.
type guard struct {
	port, token string
	next        http.Handler
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
	case r.URL.Path == "/" && g.is(r.URL.Query().Get("token")):
		http.SetCookie(w, &http.Cookie{
			Name: g.cookie(), Value: g.token, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		})
		g.next.ServeHTTP(w, r)
	case !g.hasCookie(r):
		http.Error(w, "open the URL that kubectl berth ui printed", http.StatusForbidden)
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

// cookie has the port in its name, since browsers keep one set of cookies for all ports of a host.
func (g guard) cookie() string { return "berth-" + g.port }

func (g guard) hasCookie(r *http.Request) bool {
	return slices.ContainsFunc(r.CookiesNamed(g.cookie()), func(c *http.Cookie) bool { return g.is(c.Value) })
}

func (g guard) is(token string) bool {
	return subtle.ConstantTimeCompare([]byte(token), []byte(g.token)) == 1
}
