//go:build root

package api

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
	"github.com/berth-lb/berth/e2e/stage"
)

// way is a speaker's way to the API server, which a test can cut.
type way struct {
	net.Listener
	mu   sync.Mutex
	open []net.Conn // guarded by mu
}

// newWay returns a way from a host.
func newWay(t *testing.T, host string) *way {
	t.Helper()
	w := &way{}
	must(t, scene.In(host, func() (err error) {
		w.Listener, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}))
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := w.Accept()
			if err != nil {
				return
			}
			far, err := scene.Dial(context.Background(), lab.ControlPlane, "tcp", "127.0.0.1:6443")
			if err != nil {
				_ = near.Close()
				continue
			}
			w.mu.Lock()
			w.open = append(w.open, near, far)
			w.mu.Unlock()
			for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
				running.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = pair[0].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = w.Close()
		w.cut()
		running.Wait()
	})
	return w
}

// cut ends all connections. New ones can be made at once.
func (w *way) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.open {
		_ = c.Close()
	}
	w.open = nil
}

// speakerProgram is a speaker that runs on node n1.
type speakerProgram struct {
	program
	*way
}

// startSpeaker starts the program of a speaker on node n1, with the rights of one there.
func startSpeaker(t *testing.T, identity string) speakerProgram {
	t.Helper()
	binary, err := built()
	must(t, err)
	p := &programs{binary: binary, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	w := newWay(t, "n1")
	config, err := clientcmd.LoadFromFile(scene.Kubeconfig())
	must(t, err)
	for name := range config.AuthInfos {
		config.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: speakerConfig(t, "n1").BearerToken}
	}
	for _, cluster := range config.Clusters {
		cluster.Server, cluster.TLSServerName = "https://"+w.Addr().String(), "localhost"
	}
	must(t, clientcmd.WriteToFile(*config, p.kubeconfig))
	forget := func() {
		if _, err := scene.Kubectl(context.Background(), "", "delete", "speakers", "--all"); err != nil {
			t.Error(err)
		}
	}
	forget() // what another one said
	t.Cleanup(forget)
	s := speakerProgram{p.run(t, "n1", identity, "speaker", "--node", "n1", "--listen", ""), w}
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		found, err := scene.Berth.Speakers.Get(ctx, "n1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if state, message := found.Status.State(); state != v1alpha1.SpeakerAnnouncing {
			return fmt.Errorf("the speaker is %s: %s", state, message)
		}
		return nil
	}))
	return s
}

// leaves ends the speaker, and waits until it says why.
func (s speakerProgram) leaves(t *testing.T, state v1alpha1.SpeakerState, reason string) {
	t.Helper()
	must(t, s.signal(unix.SIGTERM))
	s.awaitLog(t, `"speaker state changed"`, fmt.Sprintf(`"state":%q`, state), reason)
	must(t, s.wait())
}

// problem waits until the speaker of n1 reports a problem, or does not.
func problem(t *testing.T, reason string, reported bool) {
	t.Helper()
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		found, err := scene.Berth.Speakers.Get(ctx, "n1", metav1.GetOptions{})
		if err != nil {
			return err
		}
		is := slices.ContainsFunc(
			found.Status.Problems,
			func(p v1alpha1.SpeakerProblem) bool { return p.Reason == reason },
		)
		if is != reported {
			return fmt.Errorf("problems %+v, want %s among them: %t", found.Status.Problems, reason, reported)
		}
		return nil
	}))
}

// answers waits until node n1 answers for an address, or checks that it does.
func answers(t *testing.T, address netip.Addr) {
	t.Helper()
	hosts, err := scene.Answerers(t.Context(), address)
	must(t, err)
	if !slices.Equal(hosts, []string{"n1"}) {
		t.Errorf("%v answer for %s, want n1", hosts, address)
	}
}

// manifest returns the path of a file of manifests/.
func manifest(t *testing.T, name ...string) string {
	t.Helper()
	file, err := stage.Manifest()
	must(t, err)
	return filepath.Join(append([]string{filepath.Dir(file)}, name...)...)
}

// What the API server refuses to show, or has no longer, is no order to stop: the speaker goes on,
// and says so.
func TestSpeakerGoesOn(t *testing.T) {
	ns := namespace(t)
	start(t)
	makePool(t, "p", "172.30.0.200-172.30.0.209")
	announce := func() {
		apply(t, "SegmentAnnouncement", "p", `{poolNames: [p], nodeSelector: {}, serviceSelector: {}}`)
	}
	announce()
	makeService(t, ns, "web", nil)
	await(t, ns, "web", "Allocated", "172.30.0.200")
	address := netip.MustParseAddr("172.30.0.200")
	s := startSpeaker(t, "goes-on")
	must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
		_, err := scene.AwaitOwner(ctx, patience, address)
		return err
	}))

	t.Run("without a definition", func(t *testing.T) {
		_, err := scene.Kubectl(t.Context(), "", "delete", "crd", "segmentannouncements.berth.dev")
		must(t, err)
		problem(t, "KindGone", true)
		answers(t, address)
		_, err = scene.Kubectl(t.Context(), "", "apply", "-f", manifest(t, "crds"))
		must(t, err)
		_, err = scene.Kubectl(t.Context(), "", "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
		must(t, err)
		answers(t, address)
		must(t, stage.Eventually(t.Context(), patience, func(ctx context.Context) error {
			_, err := scene.Kubectl(ctx, "", "get", "segmentannouncements")
			return err
		}))
		announce()
		problem(t, "KindGone", false)
		answers(t, address)
	})
	t.Run("without rights", func(t *testing.T) {
		t.Cleanup(func() { giveRights(t) })
		_, err := scene.Kubectl(t.Context(), "", "delete", "clusterrolebinding", "berth-speaker")
		must(t, err)
		_, err = scene.Kubectl(t.Context(), "", "delete", "rolebinding", "-n", stage.Namespace, "berth-speaker")
		must(t, err)
		s.cut()
		for _, resource := range []string{"services", "segmentannouncements", "secrets", "daemonsets"} {
			s.awaitLog(t, `"level":"WARN"`, "the API server does not show "+resource+" (HTTP status 403)")
		}
		answers(t, address)
		s.leaves(t, v1alpha1.SpeakerRestarting, "refuses to show DaemonSet berth-system/berth-speaker")
		text, err := os.ReadFile(s.log)
		must(t, err)
		if n := strings.Count(string(text), "the API server does not show services"); n != 1 {
			t.Errorf("the log says %d times that Services are refused", n)
		}
	})
}

// Only a DaemonSet that was there and is deleted is an uninstall, also if the rights went first.
func TestSpeakerDeparture(t *testing.T) {
	set := `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: berth-speaker, namespace: berth-system}
spec:
  selector: {matchLabels: {app: none}}
  template:
    metadata: {labels: {app: none}}
    spec:
      nodeSelector: {kubernetes.io/os: linux}
      containers: [{name: none, image: example.com/none, imagePullPolicy: Never}]
`
	t.Run("no such DaemonSet", func(t *testing.T) {
		startSpeaker(
			t,
			"none",
		).leaves(t, v1alpha1.SpeakerRestarting, "there is no DaemonSet berth-system/berth-speaker")
	})
	t.Run("replaced", func(t *testing.T) {
		must(t, scene.Apply(t.Context(), set))
		startSpeaker(t, "replaced").leaves(t, v1alpha1.SpeakerRestarting, "the process is being replaced")
	})
	t.Run("uninstalled", func(t *testing.T) {
		s := startSpeaker(t, "uninstalled")
		for _, args := range [][]string{
			{"delete", "serviceaccount,rolebinding", "-n", stage.Namespace, "berth-speaker"},
			{"delete", "clusterrolebinding", "berth-speaker"},
			{"delete", "daemonset", "-n", stage.Namespace, "berth-speaker"},
		} {
			_, err := scene.Kubectl(t.Context(), "", args...)
			must(t, err)
		}
		t.Cleanup(func() { giveRights(t) })
		s.leaves(t, v1alpha1.SpeakerLeaving, "Berth is being uninstalled")
	})
}

// giveRights gives speakers back what a test took from them.
func giveRights(t *testing.T) {
	t.Helper()
	file := manifest(t, "rbac-speaker.yaml")
	_, err := scene.Kubectl(context.Background(), "", "apply", "-n", stage.Namespace, "-f", file)
	must(t, err)
}
