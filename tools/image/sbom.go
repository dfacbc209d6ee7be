package image

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// sbom lists what a program is made of, as the linker recorded it in the program: modules, and Go's
// standard library.
func sbom(s Source, p v1.Platform, program []byte) ([]byte, error) {
	info, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		return nil, fmt.Errorf("read what the program is made of: %w", err)
	}
	root := component(cdx.ComponentTypeApplication, module, s.Version)
	root.Name = "berth"
	sum := sha256.Sum256(program)
	root.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}}
	root.Licenses = &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}}
	root.Properties = &[]cdx.Property{
		{Name: "berth:platform", Value: p.String()},
		{Name: "berth:commit", Value: s.Commit},
	}

	components := []cdx.Component{
		component(cdx.ComponentTypeLibrary, "stdlib", strings.TrimPrefix(info.GoVersion, "go")),
	}
	for _, m := range info.Deps {
		components = append(components, moduleComponent(m))
	}
	needed := make([]string, 0, len(components))
	for _, c := range components {
		needed = append(needed, c.BOMRef)
	}

	list := cdx.NewBOM()
	list.Metadata = &cdx.Metadata{Timestamp: s.Time.Format(time.RFC3339), Component: &root}
	list.Components = &components
	list.Dependencies = &[]cdx.Dependency{{Ref: root.BOMRef, Dependencies: &needed}}
	var out bytes.Buffer
	// Scanners are slow to take up newer versions.
	err = cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(list, cdx.SpecVersion1_6)
	return out.Bytes(), err
}

func component(kind cdx.ComponentType, name, version string) cdx.Component {
	url := "pkg:golang/" + name + "@" + strings.ReplaceAll(version, "+", "%2B")
	return cdx.Component{Type: kind, BOMRef: url, Name: name, Version: version, PackageURL: url}
}

func moduleComponent(m *debug.Module) cdx.Component {
	if m.Replace != nil {
		m = m.Replace
	}
	c := component(cdx.ComponentTypeLibrary, m.Path, m.Version)
	if m.Sum != "" {
		c.Properties = &[]cdx.Property{{Name: "go.sum", Value: m.Sum}}
	}
	return c
}
