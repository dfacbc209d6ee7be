//go:build linux

package stage

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestAStatusWriterUndoesEachChangeUntilItHasWrittenEnough(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	s := &Stage{Kubernetes: fake.NewClientset(svc)}
	services := s.Kubernetes.CoreV1().Services("shop")
	w, err := s.StartStatusWriter(t.Context(), StatusWriterOptions{
		Namespace: "shop", Service: "web", Writes: 2, For: time.Minute,
		Addresses: []netip.Addr{netip.MustParseAddr("172.30.0.11"), netip.MustParseAddr("172.30.0.12")},
	})
	if err != nil {
		t.Fatal(err)
	}
	status := func() string {
		now, err := services.Get(t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		text := ""
		for _, i := range now.Status.LoadBalancer.Ingress {
			text += i.IP + " "
		}
		return text
	}
	overwrite := func() {
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "172.30.0.200"}}
		if _, err := services.UpdateStatus(t.Context(), svc, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for n := 1; n <= 2; n++ {
		if n > 1 { // the first is of the Service as it was
			overwrite()
		}
		if err := Eventually(t.Context(), 10*time.Second, func(context.Context) error {
			if w.Writes() < n {
				return fmt.Errorf("%d writes, want %d", w.Writes(), n)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got := status(); got != "172.30.0.11 172.30.0.12 " {
			t.Errorf("after write %d the status is %q", n, got)
		}
	}
	overwrite()
	<-w.Done()
	if got := status(); got != "172.30.0.200 " {
		t.Errorf("after all its writes the status is %q, want that it is left alone", got)
	}
	if n, err := w.Stop(); n != 2 || err != nil {
		t.Errorf("Stop = %d, %v; want 2", n, err)
	}
}
