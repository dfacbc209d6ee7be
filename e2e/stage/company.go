//go:build linux

package stage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/berth-lb/berth/e2e/stock"
)

// LoadCompany gives the nodes the images of programs of others. `lab build --company` must have
// packed them.
func (s *Stage) LoadCompany(ctx context.Context, programs ...stock.Company) error {
	folder, err := stock.Find()
	if err != nil {
		return err
	}
	for _, program := range programs {
		archive := folder.Archive(program)
		if _, err := os.Stat(archive); err != nil {
			return fmt.Errorf("%s is not built: run `lab build --company` first: %w", program, err)
		}
		if err := s.LoadImage(ctx, archive); err != nil {
			return fmt.Errorf("load %s: %w", program, err)
		}
	}
	return nil
}

// InstallEnvoyGateway installs the control plane of Envoy Gateway with Helm, from the chart in its
// module. The Envoy proxies that it creates do not run: their image cannot be built here.
func (s *Stage) InstallEnvoyGateway(ctx context.Context, home string) error {
	folder, err := stock.Find()
	if err != nil {
		return err
	}
	if err := s.LoadCompany(ctx, stock.EnvoyGateway); err != nil {
		return err
	}
	source, err := folder.Source(ctx, stock.EnvoyGateway)
	if err != nil {
		return err
	}
	helm, err := s.Helm("4", home)
	if err != nil {
		return err
	}
	helm.Namespace, helm.Chart = "envoy-gateway-system", filepath.Join(home, "gateway-helm")
	if err := os.CopyFS(helm.Chart, os.DirFS(filepath.Join(source, "charts", "gateway-helm"))); err != nil {
		return fmt.Errorf("chart of Envoy Gateway: %w", err)
	}
	// A release of it fills in its image.
	text, err := os.ReadFile(filepath.Join(helm.Chart, "values.tmpl.yaml"))
	if err != nil {
		return fmt.Errorf("chart of Envoy Gateway: %w", err)
	}
	values := strings.NewReplacer(
		"${GatewayImage}", stock.EnvoyGateway.Image(), "${GatewayImagePullPolicy}", "IfNotPresent",
	).Replace(string(text))
	if err := os.WriteFile(filepath.Join(helm.Chart, "values.yaml"), []byte(values), 0o600); err != nil {
		return fmt.Errorf("chart of Envoy Gateway: %w", err)
	}
	_, err = helm.Run(
		ctx, "topologyInjector: {enabled: false}", "install", "eg", helm.Chart, "-f", "-", "--create-namespace", "--wait",
		"--timeout", "2m",
	)
	return err
}
