//go:build linux

package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// authority signs the certificates of a lab. Its key is not stored.
type authority struct {
	dir    string
	server string // URL of the API server
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
}

// identity is a certificate with its key, both as PEM.
type identity struct{ cert, key []byte }

// newAuthority makes an authority that writes into dir.
func newAuthority(dir, server string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	a := &authority{dir: dir, server: server, key: key}
	template, err := certificate("berth-lab")
	if err != nil {
		return nil, err
	}
	template.IsCA, template.ExtKeyUsage = true, nil
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	return a, a.write("ca.crt", a.pem())
}

// certificate returns a template, valid for a month from an hour ago.
func certificate(name string, groups ...string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make certificate of %s: %w", name, err)
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name, Organization: groups},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(0, 1, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}, nil
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *authority) sign(template *x509.Certificate) (identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return identity{}, fmt.Errorf("make certificate of %s: %w", template.Subject.CommonName, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return identity{}, fmt.Errorf("make certificate of %s: %w", template.Subject.CommonName, err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return identity{}, fmt.Errorf("make certificate of %s: %w", template.Subject.CommonName, err)
	}
	return identity{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}),
	}, nil
}

// store writes FILE.crt and FILE.key for a client or server of that name.
func (a *authority) store(file, name string, groups []string, addrs []netip.Addr, dns []string) error {
	template, err := certificate(name, groups...)
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		template.IPAddresses = append(template.IPAddresses, net.IP(addr.AsSlice()))
	}
	template.DNSNames = dns
	id, err := a.sign(template)
	if err != nil {
		return err
	}
	if err := a.write(file+".crt", id.cert); err != nil {
		return err
	}
	return a.write(file+".key", id.key)
}

// kubeconfig writes FILE.kubeconfig for a user with groups.
func (a *authority) kubeconfig(file, user string, groups ...string) error {
	template, err := certificate(user, groups...)
	if err != nil {
		return err
	}
	id, err := a.sign(template)
	if err != nil {
		return err
	}
	c := api.NewConfig()
	c.Clusters["lab"] = &api.Cluster{Server: a.server, CertificateAuthorityData: a.pem()}
	c.AuthInfos[user] = &api.AuthInfo{ClientCertificateData: id.cert, ClientKeyData: id.key}
	c.Contexts["lab"] = &api.Context{Cluster: "lab", AuthInfo: user}
	c.CurrentContext = "lab"
	text, err := clientcmd.Write(*c)
	if err != nil {
		return fmt.Errorf("write kubeconfig of %s: %w", user, err)
	}
	return a.write(file+".kubeconfig", text)
}

func (a *authority) write(file string, text []byte) error {
	if err := os.WriteFile(filepath.Join(a.dir, file), text, 0o600); err != nil {
		return fmt.Errorf("write certificates: %w", err)
	}
	return nil
}
