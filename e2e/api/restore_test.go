//go:build root

package api

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// otherScene replaces the lab of all tests by one that this test can break, until it ends.
func otherScene(t *testing.T) {
	t.Helper()
	former := scene
	l, err := lab.Up(t.Context(), lab.Options{
		Name: fmt.Sprintf("other%d", os.Getpid()), Nodes: 1, Log: t.Output(), Kubernetes: os.Getenv("BERTH_KUBERNETES"),
	})
	must(t, err)
	t.Cleanup(func() {
		scene = former
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	scene, err = stage.New(l, false)
	must(t, err)
	must(t, prepare(t.Context()))
}

// storage stops etcd and the API server, has their data changed, and starts them again.
func storage(t *testing.T, change func(data string) error) {
	t.Helper()
	processes := []string{"etcd", "kube-apiserver"}
	for _, name := range slices.Backward(processes) {
		must(t, scene.Kill(t.Context(), name))
	}
	must(t, change(filepath.Join(filepath.Dir(scene.LogDir()), "data", "etcd")))
	for _, name := range processes {
		must(t, scene.Start(t.Context(), name))
	}
	must(t, stage.Eventually(t.Context(), time.Minute, func(ctx context.Context) error {
		_, err := scene.Kubectl(ctx, "", "get", "--raw", "/readyz")
		return err
	}))
}

// After a restore of etcd to an older state the controller and the speaker find out by themselves.
func TestRestoreOfEtcd(t *testing.T) {
	otherScene(t)
	const settles = time.Minute // informers wait up to 30 s before they try again
	ns := namespace(t)
	makePool(t, "p", "172.30.0.200-172.30.0.229")
	apply(t, "SegmentAnnouncement", "p", `{poolNames: [p], nodeSelector: {}, serviceSelector: {}}`)
	p := newPrograms(t)
	first := p.start(t, "first")
	awaitLeader(t, "first")
	makeService(t, ns, "stays", nil)
	await(t, ns, "stays", "Allocated", "172.30.0.200")
	makeService(t, ns, "deleted", nil)
	await(t, ns, "deleted", "Allocated", "172.30.0.201")
	startSpeaker(t, "speaker")
	owned := func(address string, want ...string) {
		t.Helper()
		must(t, stage.Eventually(t.Context(), settles, func(ctx context.Context) error {
			hosts, err := scene.Answerers(ctx, netip.MustParseAddr(address))
			if err == nil && !slices.Equal(hosts, want) {
				err = fmt.Errorf("%v answer for %s, want %v", hosts, address, want)
			}
			return err
		}))
	}
	owned("172.30.0.201", "n1")

	copied := filepath.Join(t.TempDir(), "etcd")
	storage(t, func(data string) error { return os.CopyFS(copied, os.DirFS(data)) })
	remove(t, ns, "deleted")
	makeService(t, ns, "lost", nil)
	await(t, ns, "lost", "Allocated", "172.30.0.202")
	owned("172.30.0.202", "n1")
	owned("172.30.0.201")
	for i := range 300 { // so that the revision takes a while to catch up
		_, err := scene.Kubernetes.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c-%d", i)},
		}, metav1.CreateOptions{})
		must(t, err)
	}
	storage(t, func(data string) error {
		return errors.Join(os.RemoveAll(data), os.CopyFS(data, os.DirFS(copied)))
	})

	restored := time.Now()
	if err := first.wait(); err == nil {
		t.Error("the controller ended as if all were well")
	}
	first.awaitLog(t, "the storage of the API server was restored to an older state")
	p.start(t, "second") // as the kubelet does
	owned("172.30.0.201", "n1")
	owned("172.30.0.202")
	owned("172.30.0.200", "n1")
	t.Logf("the speaker announced what the API has %s after the restore", time.Since(restored))
	makeService(t, ns, "new", nil)
	must(t, stage.Eventually(t.Context(), settles, func(context.Context) error {
		svc := get(t, ns, "new")
		if a := stage.Addresses(svc); len(a) != 1 || a[0] == netip.MustParseAddr("172.30.0.201") {
			return fmt.Errorf("a new Service has %v", a)
		}
		return nil
	}))
	t.Logf("a new Service had its address %s after the restore", time.Since(restored))
	owned(stage.Addresses(get(t, ns, "new"))[0].String(), "n1")
	remove(t, ns, "stays")
	owned("172.30.0.200")
}
