package image

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// sbomMediaType is CycloneDX's media type for JSON.
const sbomMediaType = types.MediaType("application/vnd.cyclonedx+json")

// Push pushes the images, the index over them under the version as its tag, and the lists of parts
// as referrers of the images. It returns the index by its digest.
func (s Set) Push(ctx context.Context, to name.Repository, options ...remote.Option) (name.Digest, error) {
	options = append(options, remote.WithContext(ctx))
	tag := to.Tag(s.Source.Version)
	if err := remote.WriteIndex(tag, s.Index, options...); err != nil {
		return name.Digest{}, fmt.Errorf("push %s: %w", tag, err)
	}
	for _, im := range s.Images {
		list, err := im.sbomArtifact()
		if err != nil {
			return name.Digest{}, fmt.Errorf("attach the SBOM for %s: %w", im.Platform.String(), err)
		}
		digest, err := list.Digest()
		if err != nil {
			return name.Digest{}, fmt.Errorf("attach the SBOM for %s: %w", im.Platform.String(), err)
		}
		if err := remote.Write(to.Digest(digest.String()), list, options...); err != nil {
			return name.Digest{}, fmt.Errorf("attach the SBOM for %s: %w", im.Platform.String(), err)
		}
	}
	digest, err := s.Index.Digest()
	if err != nil {
		return name.Digest{}, err
	}
	return to.Digest(digest.String()), nil
}

// sbomArtifact is the list of parts as an artifact that refers to the image. Its type is that of
// its configuration (OCI image specification, manifest.md, section "Guidelines for Artifact
// Usage").
func (i Image) sbomArtifact() (v1.Image, error) {
	subject, err := partial.Descriptor(i)
	if err != nil {
		return nil, err
	}
	a := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	a = mutate.ConfigMediaType(a, sbomMediaType)
	if a, err = mutate.AppendLayers(a, static.NewLayer(i.SBOM, sbomMediaType)); err != nil {
		return nil, err
	}
	return mutate.Subject(a, *subject).(v1.Image), nil
}
