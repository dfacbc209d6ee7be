package metricsauth

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	certutil "k8s.io/client-go/util/cert"
)

// Certificate is what a server shows to its clients. Make one with NewCertificate.
type Certificate struct {
	certFile, keyFile string
	logger            *slog.Logger
	last              atomic.Pointer[tls.Certificate] // the last one that was good
}

var errHalf = errors.New("a certificate needs a key, and a key a certificate; give both files, or neither")

// NewCertificate returns the certificate in two files of PEM. Without files it returns one that it
// makes and signs itself, for the host: it encrypts, and its clients cannot verify it.
func NewCertificate(certFile, keyFile, host string, logger *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, logger: logger}
	var pair tls.Certificate
	var err error
	switch {
	case (certFile == "") != (keyFile == ""):
		return nil, errHalf
	case certFile == "":
		var cert, key []byte
		if cert, key, err = certutil.GenerateSelfSignedCertKey(host, nil, nil); err == nil {
			pair, err = tls.X509KeyPair(cert, key)
		}
	default:
		pair, err = tls.LoadX509KeyPair(certFile, keyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate of the metrics: %w", err)
	}
	c.last.Store(&pair)
	return c, nil
}

// Config returns a configuration of TLS with this certificate.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current(), nil },
	}
}

// current returns the certificate that the files contain now: connections are rare, and a Secret's
// files change without a word. While they do not fit together, it is the one before.
func (c *Certificate) current() *tls.Certificate {
	if c.certFile == "" {
		return c.last.Load()
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		c.logger.Warn("the certificate of the metrics was not read; the one before stays in use", "error", err)
		return c.last.Load()
	}
	c.last.Store(&pair)
	return &pair
}
