package ui

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/berth-lb/berth/kubectl/dashboard"
	"github.com/berth-lb/berth/kubectl/why"
)

//go:embed assets
var assets embed.FS

// Explain follows a Service to the packet. It returns nil if there is no such Service.
type Explain func(ctx context.Context, namespace, name string) (*why.Report, error)

// Server serves the page. Its methods may be called from several goroutines.
type Server struct {
	listener net.Listener
	token    string
	files    fs.FS
	explain  Explain

	mu      sync.Mutex
	latest  []byte        // the Frame, as JSON; nil: none yet
	changed chan struct{} // closed at the next Frame
}

// Listen returns a Server that listens on the loopback address, on any free port if port is 0.
func Listen(port int, explain Explain) (*Server, error) {
	files, err := fs.Sub(assets, "assets")
	if err != nil {
		return nil, fmt.Errorf("find the page: %w", err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", fmt.Sprint(port)))
	if err != nil {
		return nil, fmt.Errorf("serve the page: %w", err)
	}
	return &Server{
		listener: listener, token: rand.Text(), files: files, explain: explain, changed: make(chan struct{}),
	}, nil
}

// URL is where the page is. Behind the # it has the secret with which the page asks for its data.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() + "/#token=" + s.token }

// Show sends a Frame to every page that is open.
func (s *Server) Show(f dashboard.Frame) error {
	text, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("write the page's data: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest = text
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

func (s *Server) frame() (latest []byte, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.latest, s.changed
}

// Serve serves the page until the context ends.
func (s *Server) Serve(ctx context.Context) error {
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		// Streams end with the context.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the page: %w", err)
	}
	return nil
}

// Handler serves the page to all on this machine, and to those with the token its data as a stream,
// and why a Service is as it is.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(s.files))
	mux.HandleFunc("GET /events", bearer(s.token, s.stream))
	mux.HandleFunc("GET /why/{namespace}/{name}", bearer(s.token, s.why))
	_, port, _ := net.SplitHostPort(s.listener.Addr().String()) // a listener has a port
	return guard{port: port, next: mux}
}

// silence is the longest time without a line in a stream: a page that is gone is noticed.
const silence = 15 * time.Second

// stream sends each Frame as a server-sent event. A page that reads slowly skips some.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	send := func(format string, args ...any) error {
		if err := out.SetWriteDeadline(time.Now().Add(silence)); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, format, args...); err != nil {
			return err
		}
		return out.Flush()
	}
	beat := time.NewTicker(silence)
	defer beat.Stop()
	if send(": it begins\n\n") != nil {
		return
	}
	var shown <-chan struct{} // the change that ends what the page has
	for {
		latest, changed := s.frame()
		if latest != nil && changed != shown {
			if send("data: %s\n\n", latest) != nil {
				return
			}
			shown = changed
		}
		select {
		case <-changed:
		case <-beat.C:
			if send(": nothing changed\n\n") != nil {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

func (s *Server) why(w http.ResponseWriter, r *http.Request) {
	report, err := s.explain(r.Context(), r.PathValue("namespace"), r.PathValue("name"))
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	case report == nil:
		http.Error(w, "there is no such Service", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(report) // the page may be gone
}
