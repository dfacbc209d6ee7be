package stock

import (
	"context"
	"io"
)

// HelmVersions are the major versions of Helm that the chart is tested with. The module e2e/helm
// determines the rest.
func HelmVersions() []string { return []string{"3", "4"} }

// HelmBinary is the name, for Bin, of Helm of a major version.
func HelmBinary(version string) string { return "helm" + version }

// FluxBinary is the name, for Bin, of the program that applies manifests as Flux does.
const FluxBinary = "flux-apply"

// BuildInstallers compiles Helm, and what applies manifests as Flux does. Few tests need them.
func (f Folder) BuildInstallers(ctx context.Context, log io.Writer) error {
	const note = " (a minute or two the first time)"
	all := []binary{{name: FluxBinary, module: "e2e/flux", pkg: ".", ldflags: "-s -w", note: note}}
	for _, version := range HelmVersions() {
		all = append(all, binary{
			name: HelmBinary(version), module: "e2e/helm", pkg: "helm.sh/helm/v" + version + "/cmd/helm", ldflags: "-s -w",
			note: note,
		})
	}
	return f.build(ctx, log, all)
}
