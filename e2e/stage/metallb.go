//go:build linux

package stage

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stock"
)

// MetalLBNamespace is the namespace of MetalLB's own objects.
const MetalLBNamespace = "metallb-system"

//go:embed metallb.yaml
var metalLBWorkloads string

// MetalLBPools are the ranges that ConfigureMetalLB configures.
type MetalLBPools struct {
	// L2 is a range that is announced on the segment, and given to any Service automatically.
	L2 string
	// BGP is a range that is advertised to the router, given to Services that name MetalLBRouted in
	// MetalLBPoolAnnotation.
	BGP string
}

// The pools of ConfigureMetalLB, and the annotation by which a Service names one.
const (
	MetalLBRack           = "rack"
	MetalLBRouted         = "routed"
	MetalLBPoolAnnotation = "metallb.io/address-pool"
)

// InstallMetalLB installs the real MetalLB, controller and speakers, in mode native, and waits
// until all of it is ready. `lab build --metallb` must have packed its images.
func (s *Stage) InstallMetalLB(ctx context.Context) error {
	folder, err := stock.Find()
	if err != nil {
		return err
	}
	for _, archive := range folder.MetalLBArchives() {
		if _, err := os.Stat(archive); errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("install MetalLB: there is no %s: run `lab build --metallb` first", archive)
		}
		if err := s.LoadImage(ctx, archive); err != nil {
			return fmt.Errorf("install MetalLB: %w", err)
		}
	}
	manifest, err := metalLBManifest(ctx, folder)
	if err != nil {
		return err
	}
	if _, err := s.Kubectl(ctx, manifest, "apply", "--server-side", "-f", "-"); err != nil {
		return fmt.Errorf("install MetalLB: %w", err)
	}
	for _, what := range []string{"deployment/controller", "daemonset/speaker"} {
		if _, err := s.Kubectl(ctx, "", "-n", MetalLBNamespace, "rollout", "status", what, "--timeout=90s"); err != nil {
			return fmt.Errorf("wait for MetalLB's %s: %w", what, err)
		}
	}
	return nil
}

// metalLBManifest returns all objects of MetalLB: the resources and rights in its module, in its
// namespace, and the workloads of the lab.
func metalLBManifest(ctx context.Context, folder stock.Folder) (string, error) {
	source, err := folder.MetalLBSource(ctx)
	if err != nil {
		return "", err
	}
	files, err := filepath.Glob(filepath.Join(source, "config", "crd", "bases", "*.yaml"))
	if err != nil {
		return "", fmt.Errorf("resources of MetalLB: %w", err)
	}
	if len(files) == 0 {
		return "", fmt.Errorf("no resources of MetalLB in %s", source)
	}
	manifest := []string{"apiVersion: v1\nkind: Namespace\nmetadata: {name: " + MetalLBNamespace + "}\n"}
	for _, name := range append(
		files, filepath.Join(source, "config", "rbac", "role.yaml"),
		filepath.Join(source, "config", "rbac", "service-accounts.yaml"),
	) {
		text, err := os.ReadFile(name)
		if err != nil {
			return "", fmt.Errorf("read MetalLB's manifests: %w", err)
		}
		for document := range strings.SplitSeq(string(text), "\n---") {
			object, err := placed(document)
			if err != nil {
				return "", fmt.Errorf("read MetalLB's manifest %s: %w", name, err)
			}
			manifest = append(manifest, object)
		}
	}
	return strings.Join(append(manifest, metalLBWorkloads), "\n---\n"), nil
}

// placed puts one of MetalLB's objects, and the accounts that it names, into MetalLB's namespace,
// as kustomize does for its users.
func placed(document string) (string, error) {
	object := map[string]any{}
	if err := yaml.Unmarshal([]byte(document), &object); err != nil {
		return "", err
	}
	kind, _ := object["kind"].(string)
	if metadata, ok := object["metadata"].(map[string]any); ok && kind != "CustomResourceDefinition" &&
		!strings.HasPrefix(kind, "Cluster") {
		metadata["namespace"] = MetalLBNamespace
	}
	if subjects, ok := object["subjects"].([]any); ok {
		for _, subject := range subjects {
			if account, ok := subject.(map[string]any); ok && account["kind"] == rbacv1.ServiceAccountKind {
				account["namespace"] = MetalLBNamespace
			}
		}
	}
	text, err := yaml.Marshal(object)
	return string(text), err
}

// ConfigureMetalLB configures MetalLB's pools and announcements, with the router as its BGP peer.
func (s *Stage) ConfigureMetalLB(ctx context.Context, pools MetalLBPools) error {
	err := s.Apply(ctx, fmt.Sprintf(`
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: rack, namespace: %[1]s}
spec: {addresses: [%[2]q]}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: routed, namespace: %[1]s}
spec: {addresses: [%[3]q], autoAssign: false}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: rack, namespace: %[1]s}
spec: {ipAddressPools: [rack]}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: tor, namespace: %[1]s}
spec: {myASN: %[4]d, peerASN: %[5]d, peerAddress: 172.30.0.1, holdTime: 9s}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: tor, namespace: %[1]s}
spec: {ipAddressPools: [routed], peers: [tor]}
`, MetalLBNamespace, pools.L2, pools.BGP, lab.NodeAS, lab.RouterAS))
	if err != nil {
		return fmt.Errorf("configure MetalLB: %w", err)
	}
	return nil
}

// StopMetalLB deletes MetalLB's controller and speakers, and waits until their pods are gone. Its
// objects, and the statuses that it wrote, stay.
func (s *Stage) StopMetalLB(ctx context.Context) error {
	_, err := s.Kubectl(
		ctx, "", "-n", MetalLBNamespace, "delete", "deployment/controller", "daemonset/speaker",
		"--cascade=foreground", "--timeout=60s",
	)
	if err != nil {
		return fmt.Errorf("stop MetalLB: %w", err)
	}
	return nil
}

// UninstallMetalLB deletes everything that InstallMetalLB and ConfigureMetalLB made.
func (s *Stage) UninstallMetalLB(ctx context.Context) error {
	folder, err := stock.Find()
	if err != nil {
		return err
	}
	manifest, err := metalLBManifest(ctx, folder)
	if err != nil {
		return err
	}
	if _, err := s.Kubectl(ctx, manifest, "delete", "--ignore-not-found", "--timeout=60s", "-f", "-"); err != nil {
		return fmt.Errorf("uninstall MetalLB: %w", err)
	}
	return nil
}

// AwaitRouterSessions waits until the router has an established session with every node, and
// returns them by node.
func (s *Stage) AwaitRouterSessions(ctx context.Context, patience time.Duration) (map[string]RouterSession, error) {
	var sessions map[string]RouterSession
	err := Eventually(ctx, patience, func(ctx context.Context) error {
		var err error
		if sessions, err = s.RouterSessions(ctx); err != nil {
			return err
		}
		for _, node := range s.Nodes() {
			if state := sessions[node].State; state != "Established" {
				return fmt.Errorf("the router's session with %s is %q, want Established", node, state)
			}
		}
		return nil
	})
	return sessions, err
}
