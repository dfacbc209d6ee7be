// Command flux applies the manifests of its input with Flux's own library, as its
// kustomize-controller does for a Kustomization with wait: CRDs and namespaces first, then the
// rest, and then it waits for all of them by kstatus. It prints what it did to each object.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/pkg/ssa"
	"github.com/fluxcd/pkg/ssa/normalize"
	ssautils "github.com/fluxcd/pkg/ssa/utils"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig file")
	timeout := flag.Duration("timeout", time.Minute, "how long to wait for the objects")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *kubeconfig, *timeout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "flux:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kubeconfig string, timeout time.Duration) error {
	objects, err := ssautils.ReadObjects(os.Stdin)
	if err != nil {
		return fmt.Errorf("read manifests: %w", err)
	}
	if err := normalize.UnstructuredList(objects); err != nil {
		return fmt.Errorf("normalize: %w", err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	manager, err := newManager(config)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	changes, err := manager.ApplyAllStaged(ctx, objects, ssa.DefaultApplyOptions())
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	for _, entry := range changes.Entries {
		fmt.Println(entry.Action, entry.Subject)
	}
	options := ssa.DefaultWaitOptions()
	options.Timeout = timeout
	if err := manager.WaitForSetWithContext(ctx, changes.ToObjMetadataSet(), options); err != nil {
		return errors.Join(errors.New("wait"), err)
	}
	return nil
}

func newManager(config *rest.Config) (*ssa.ResourceManager, error) {
	http, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	mapper, err := apiutil.NewDynamicRESTMapper(config, http)
	if err != nil {
		return nil, err
	}
	c, err := client.New(config, client.Options{Mapper: mapper})
	if err != nil {
		return nil, err
	}
	poller := polling.NewStatusPoller(c, mapper, polling.Options{})
	return ssa.NewResourceManager(
		c,
		poller,
		ssa.Owner{Field: "kustomize-controller", Group: "kustomize.toolkit.fluxcd.io"},
	), nil
}
