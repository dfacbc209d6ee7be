package stage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// InstallComponent applies Berth's manifests with a component of theirs, such as "steering", and
// waits until all of Berth is ready. Dir is an empty folder for the overlay.
func (s *Stage) InstallComponent(ctx context.Context, dir, component string) error {
	manifest, err := Manifest()
	if err != nil {
		return err
	}
	manifests, err := filepath.Rel(dir, filepath.Dir(manifest))
	if err != nil {
		return err
	}
	text := fmt.Sprintf("resources: [%s]\ncomponents: [%s/%s]\n", manifests, manifests, component)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		return err
	}
	if _, err := s.Kubectl(ctx, "", "apply", "-k", dir); err != nil {
		return fmt.Errorf("install Berth with %s: %w", component, err)
	}
	return s.AwaitBerth(ctx)
}
