package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/internal/version"
	"github.com/berth-lb/berth/kubectl/cluster"
	"github.com/berth-lb/berth/kubectl/doctor"
)

const (
	// mostLog is how much is kept of a container's log: its end.
	mostLog = 4 << 20
	// mostMetrics is how much is kept of a Pod's metrics.
	mostMetrics = 8 << 20
	// atOnce is how many Pods are asked at the same time.
	atOnce = 8
)

// Collect reads the cluster with the user's rights. What could not be had is among the Errors; an
// error says that the API server does not answer. Of logs it reads what is younger than since.
func Collect(ctx context.Context, to *cluster.Clients, namespace string, since time.Duration) (*Bundle, error) {
	s, err := cluster.Read(ctx, to, namespace)
	if err != nil {
		return nil, err
	}
	extras, err := doctor.Read(ctx, to, namespace)
	if err != nil {
		return nil, err
	}
	b := New(namespace)
	for resource, err := range s.Missing {
		b.Fail(resource.String(), err)
	}
	for resource, err := range extras.Missing {
		b.Fail(resource.String()+" (doctor)", err)
	}
	for _, save := range []func() (map[string][]byte, error){s.Save, extras.Save, func() (map[string][]byte, error) {
		text, err := json.Marshal(version.Get())
		return map[string][]byte{"plugin.json": text}, err
	}} {
		files, err := save()
		if err != nil {
			return nil, err
		}
		for name, content := range files {
			b.Add(name, content)
		}
	}
	c := collector{Clients: to, into: b}
	for _, n := range namespaces(s) {
		c.pods(ctx, n)
	}
	c.events(ctx, namespace)
	var work errgroup.Group
	work.SetLimit(atOnce)
	for _, pod := range s.Pods {
		if component := cluster.Component(pod.Labels); component == "controller" || component == "speaker" {
			work.Go(func() error {
				c.logs(ctx, pod, since)
				c.metrics(ctx, pod)
				return nil
			})
		}
	}
	_ = work.Wait() // they return no error
	return b, ctx.Err()
}

// namespaces returns those with Services of type LoadBalancer.
func namespaces(s *cluster.State) []string {
	all := map[string]bool{}
	for _, svc := range s.Services {
		if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
			all[svc.Namespace] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// collector puts what it reads into a Bundle.
type collector struct {
	*cluster.Clients
	mu   sync.Mutex
	into *Bundle // what changes in it is guarded by mu
}

// put redacts before it takes the mutex: a log may take a second, and eight are read at once.
func (c *collector) put(name string, content []byte, err error) {
	if err == nil {
		content, err = c.into.redact(name, content)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.into.keep(name, content, err)
}

// pods reads those of a namespace, as why needs them: without what runs in them.
func (c *collector) pods(ctx context.Context, namespace string) {
	list, err := c.Kubernetes.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	var content []byte
	if err == nil {
		var all []*corev1.Pod
		for i := range list.Items {
			all = append(all, slim(&list.Items[i]))
		}
		content, err = cluster.SaveList(corev1.SchemeGroupVersion.WithKind("Pod"), all)
	}
	c.put(podsFile(namespace), content, err)
}

// slim returns what a Service needs to know of a Pod.
func slim(pod *corev1.Pod) *corev1.Pod {
	s := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels, UID: pod.UID,
			CreationTimestamp: pod.CreationTimestamp, DeletionTimestamp: pod.DeletionTimestamp,
		},
		Spec:   corev1.PodSpec{NodeName: pod.Spec.NodeName},
		Status: pod.Status,
	}
	for _, c := range pod.Spec.Containers {
		s.Spec.Containers = append(s.Spec.Containers, corev1.Container{Name: c.Name, Ports: c.Ports})
	}
	return s
}

// events reads those of Berth's namespace: why its Pods do not start.
func (c *collector) events(ctx context.Context, namespace string) {
	list, err := c.Kubernetes.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	var content []byte
	if err == nil {
		var all []*corev1.Event
		for i := range list.Items {
			all = append(all, &list.Items[i])
		}
		content, err = cluster.SaveList(corev1.SchemeGroupVersion.WithKind("Event"), all)
	}
	c.put("events.json", content, err)
}

// logs reads those of a Pod's containers, and of the run before if one was started again.
func (c *collector) logs(ctx context.Context, pod *corev1.Pod, since time.Duration) {
	seconds := int64(max(since, time.Second) / time.Second)
	read := func(container, name string, previous bool) {
		content, err := c.tail(ctx, pod, &corev1.PodLogOptions{
			Container: container, Previous: previous, SinceSeconds: &seconds, Timestamps: true,
		})
		c.put("logs/"+pod.Name+"/"+name+".log", content, err)
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		read(s.Name, s.Name, false)
		if s.RestartCount > 0 {
			read(s.Name, s.Name+".previous", true)
		}
	}
}

// tail returns the end of a log, in whole lines.
func (c *collector) tail(ctx context.Context, pod *corev1.Pod, options *corev1.PodLogOptions) ([]byte, error) {
	in, err := c.Kubernetes.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, options).Stream(ctx)
	if err != nil {
		return nil, err
	}
	kept := end{most: mostLog}
	_, err = io.Copy(&kept, in)
	_ = in.Close()
	return kept.lines(), err
}

// end keeps the end of what is written to it.
type end struct {
	most int
	text []byte
	cut  bool
}

func (e *end) Write(p []byte) (int, error) {
	e.text = append(e.text, p...)
	if len(e.text) > 2*e.most {
		e.text, e.cut = append(e.text[:0], e.text[len(e.text)-e.most:]...), true
	}
	return len(p), nil
}

// lines returns what was kept, and no half line: half of a secret does not look like one.
func (e *end) lines() []byte {
	text := e.text
	if over := len(text) - e.most; over > 0 {
		text, e.cut = text[over:], true
	}
	if !e.cut {
		return text
	}
	_, text, _ = bytes.Cut(text, []byte("\n"))
	return append(fmt.Appendf(nil, "(only the last %d bytes)\n", e.most), text...)
}

// metrics reads those of a Pod, through the API server.
func (c *collector) metrics(ctx context.Context, pod *corev1.Pod) {
	for _, container := range pod.Spec.Containers {
		for _, port := range container.Ports {
			if port.Name != "http" {
				continue
			}
			content, err := c.Kubernetes.CoreV1().
				Pods(pod.Namespace).
				ProxyGet("http", pod.Name, fmt.Sprint(port.ContainerPort), "metrics", nil).
				DoRaw(ctx)
			if len(content) > mostMetrics {
				err = fmt.Errorf("has %d bytes, more than %d", len(content), mostMetrics)
			}
			c.put("metrics/"+pod.Name+".txt", content, err)
		}
	}
}
