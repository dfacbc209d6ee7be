package metricsauth

import (
	"bytes"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	certutil "k8s.io/client-go/util/cert"
)

// shown returns the name in the certificate that a server shows to a new connection.
func shown(t *testing.T, c *Certificate) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Listener = tls.NewListener(s.Listener, c.Config())
	s.Start()
	defer s.Close()
	connection, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(
		t.Context(), "tcp", s.Listener.Addr().String(),
	)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	return connection.(*tls.Conn).ConnectionState().PeerCertificates[0].DNSNames[0]
}

// issue writes a certificate for the name, and its key.
func issue(t *testing.T, dir, name string) (cert, key string) {
	t.Helper()
	certPEM, keyPEM, err := certutil.GenerateSelfSignedCertKey(name, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	if err := errors.Join(os.WriteFile(cert, certPEM, 0o600), os.WriteFile(key, keyPEM, 0o600)); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func TestCertificate(t *testing.T) {
	dir := t.TempDir()
	cert, key := issue(t, dir, "first")
	var log bytes.Buffer
	c, err := NewCertificate(cert, key, "host", slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if got := shown(t, c); got != "first" {
		t.Errorf("shows %s, want first", got)
	}
	issue(t, dir, "second")
	if got := shown(t, c); got != "second" {
		t.Errorf("shows %s, want second", got)
	}
	if err := os.WriteFile(key, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := shown(t, c); got != "second" {
		t.Errorf("shows %s while the files do not fit together, want second", got)
	}
	if log.Len() == 0 {
		t.Error("no word about files that do not fit together")
	}
}

func TestNewCertificate(t *testing.T) {
	c, err := NewCertificate("", "", "host", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if got := shown(t, c); got != "host" {
		t.Errorf("shows %s, want host", got)
	}
	for _, files := range [][2]string{{"cert", ""}, {"", "key"}, {"/no/cert", "/no/key"}} {
		if c, err := NewCertificate(files[0], files[1], "host", slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%q: no error, but %v", files, c)
		}
	}
}
