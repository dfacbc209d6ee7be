package stock

import (
	"context"
	"io"
	"path/filepath"
)

// CoreDNSImage is the reference of the image of CoreDNS. e2e/coredns/go.mod determines its version.
const CoreDNSImage = "berth.dev/coredns:1"

// CoreDNS is the image of CoreDNS as an archive, which BuildDNS packs.
func (f Folder) CoreDNS() string { return filepath.Join(f.GuestImages(), "coredns.tar") }

// Agnhost is the image that Pods of the tutorial run, as an archive, which BuildDNS packs.
func (f Folder) Agnhost() string { return filepath.Join(f.GuestImages(), "agnhost.tar") }

// BuildDNS compiles CoreDNS, and a client and server for Pods that use it, and packs their images.
func (f Folder) BuildDNS(ctx context.Context, log io.Writer) error {
	return f.build(ctx, log, []binary{
		{
			name: "coredns", module: "e2e/coredns", pkg: ".", ldflags: "-s -w", image: CoreDNSImage,
			images: f.GuestImages(), user: "65532:65532", note: " (a minute the first time)",
		},
		{
			// The name of the real image, so that the tutorial's manifests are those of any cluster.
			name: "agnhost", module: "e2e", pkg: "./cmd/agnhost", ldflags: "-s -w",
			image:  "registry.k8s.io/e2e-test-images/agnhost:2.63.0",
			also:   map[string]string{"/curl": "agnhost", "/dig": "agnhost"},
			images: f.GuestImages(), user: "65532:65532",
		},
	})
}
