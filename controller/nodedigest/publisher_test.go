package nodedigest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/digest"
)

const namespace = "berth-system"

// scene is a publisher that leads in a cluster.
type scene struct {
	*fake.Clientset
	writes map[string]int // by name of the ConfigMap
	fails  atomic.Bool    // every write of the ConfigMap with Node n1
}

// slow is an API server that answers writes of ConfigMaps after a while. It counts heartbeats.
type slow struct {
	kubernetes.Interface
	beats *atomic.Int32
}

// IsWatchListSemanticsUnSupported is what client-go asks a fake client.
func (slow) IsWatchListSemanticsUnSupported() bool { return true }

func (s slow) CoreV1() typedcorev1.CoreV1Interface { return slowCore{s.Interface.CoreV1(), s.beats} }

type slowCore struct {
	typedcorev1.CoreV1Interface
	beats *atomic.Int32
}

func (s slowCore) ConfigMaps(namespace string) typedcorev1.ConfigMapInterface {
	return slowMaps{s.CoreV1Interface.ConfigMaps(namespace), s.beats}
}

type slowMaps struct {
	typedcorev1.ConfigMapInterface
	beats *atomic.Int32
}

func (s slowMaps) Update(
	ctx context.Context, m *corev1.ConfigMap, o metav1.UpdateOptions,
) (*corev1.ConfigMap, error) {
	written, err := s.ConfigMapInterface.Update(ctx, m, o)
	<-time.After(2 * time.Second) // of the test's own clock
	if m.Name == digest.Name {
		s.beats.Add(1)
	}
	return written, err
}

// lead runs the test beside a publisher that leads.
func lead(t *testing.T, objects []runtime.Object, test func(*testing.T, *scene)) {
	t.Helper()
	leadBy(t, func(s *scene) kubernetes.Interface { return s }, objects, test)
}

// leadBy is lead by way of a client.
func leadBy(
	t *testing.T, by func(*scene) kubernetes.Interface, objects []runtime.Object, test func(*testing.T, *scene),
) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &scene{Clientset: fake.NewClientset(objects...), writes: map[string]int{}}
		s.PrependReactor("*", "configmaps", func(a clienttesting.Action) (bool, runtime.Object, error) {
			name := ""
			switch a := a.(type) {
			case clienttesting.CreateAction: // an UpdateAction, too
				name = a.GetObject().(*corev1.ConfigMap).Name
			case clienttesting.DeleteAction:
				name = a.GetName()
			default:
				return false, nil, nil
			}
			s.writes[name]++
			if s.fails.Load() && name == digest.Share("n1") {
				return true, nil, errors.New("refused")
			}
			return false, nil, nil
		})
		factory := informers.NewSharedInformerFactory(s, 0)
		p, err := New(Config{
			Kubernetes: by(s), Namespace: namespace, Nodes: factory.Core().V1().Nodes().Informer(),
			Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		factory.StartWithContext(ctx)
		running.Go(func() { _ = p.Watch(ctx) })
		running.Go(func() {
			if err := p.Lead(ctx); err != nil {
				t.Error(err)
			}
			factory.Shutdown()
		})
		<-time.After(10 * time.Second)
		synctest.Wait()
		test(t, s)
	})
}

// wants checks what is published of Nodes, and the heartbeat: its age is within that of the newest
// there can be, or there is none if it says so.
func (s *scene) wants(t *testing.T, fresh bool, nodes ...*corev1.Node) {
	t.Helper()
	synctest.Wait()
	list, err := s.CoreV1().
		ConfigMaps(namespace).
		List(t.Context(), metav1.ListOptions{LabelSelector: digest.Selector()})
	if err != nil {
		t.Fatal(err)
	}
	got, want := map[string]string{}, map[string]string{}
	var heartbeat digest.Heartbeat
	for _, m := range list.Items {
		if m.Name == digest.Name {
			if heartbeat, err = digest.HeartbeatIn(m.Data); err != nil {
				t.Error(err)
			}
			continue
		}
		for name, text := range m.Data {
			got[m.Name+"/"+name] = text
		}
	}
	for _, n := range nodes {
		if want[digest.Share(n.Name)+"/"+n.Name], err = digest.Encode(n); err != nil {
			t.Fatal(err)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("published is %v, want %v", got, want)
	}
	age, known := heartbeat.Age(time.Now())
	if is := known && age <= digest.Every; is != fresh {
		t.Errorf("the heartbeat is %v old (%v), fresh: want %v", age, known, fresh)
	}
	var shares []string
	for _, m := range list.Items {
		if m.Name != digest.Name {
			shares = append(shares, m.Name)
		}
	}
	if slices.Sort(shares); fresh && !slices.Equal(heartbeat.Shares, shares) {
		t.Errorf("the heartbeat says %v, want %v", heartbeat.Shares, shares)
	}
}

func node(name, label string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"a": label}}}
}

func TestPublisher(t *testing.T) {
	lead(t, []runtime.Object{node("n1", "1"), node("n2", "1")}, func(t *testing.T, s *scene) {
		nodes, its := s.CoreV1().Nodes(), s.CoreV1().ConfigMaps(namespace)
		must := func(_ any, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		settle := func() { <-time.After(2 * digest.Every) }
		s.wants(t, true, node("n1", "1"), node("n2", "1"))

		must(nodes.Update(t.Context(), node("n1", "2"), metav1.UpdateOptions{}))
		must(nodes.Create(t.Context(), node("n3", "1"), metav1.CreateOptions{}))
		must(nil, nodes.Delete(t.Context(), "n2", metav1.DeleteOptions{}))
		settle()
		s.wants(t, true, node("n1", "2"), node("n3", "1"))

		// What others change, delete or make is put right.
		must(its.Update(t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: digest.Share("n1"), Namespace: namespace, Labels: digest.Labels()},
			Data:       map[string]string{"n1": "{}", "n9": "{}"},
			Immutable:  new(true),
		}, metav1.UpdateOptions{}))
		must(nil, its.Delete(t.Context(), digest.Share("n3"), metav1.DeleteOptions{}))
		must(its.Create(t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: digest.Name + "-999", Labels: digest.Labels()},
			Data:       map[string]string{"n1": "{}"},
		}, metav1.CreateOptions{}))
		settle()
		s.wants(t, true, node("n1", "2"), node("n3", "1"))

		// What a kubelet writes every few minutes changes nothing.
		before := maps.Clone(s.writes)
		beat := node("n1", "2")
		beat.Status.Images = []corev1.ContainerImage{{Names: []string{"example.com/image"}}}
		must(nodes.Update(t.Context(), beat, metav1.UpdateOptions{}))
		settle()
		s.wants(t, true, node("n1", "2"), node("n3", "1"))
		delete(before, digest.Name)
		after := maps.Clone(s.writes)
		delete(after, digest.Name)
		if !maps.Equal(before, after) {
			t.Errorf("written were %v, then %v", before, after)
		}
	})
}

// A ConfigMap is written once a second, after the first few times, however often a Node changes.
func TestPublisher_isPaced(t *testing.T) {
	lead(t, []runtime.Object{node("n1", "0")}, func(t *testing.T, s *scene) {
		before := s.writes[digest.Share("n1")]
		labels := slices.Repeat([]string{"1", "2"}, 50)
		for _, label := range labels {
			if _, err := s.CoreV1().Nodes().Update(t.Context(), node("n1", label), metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			<-time.After(50 * time.Millisecond) // 5 s in all
		}
		<-time.After(2 * spacing)
		s.wants(t, true, node("n1", "2"))
		if writes := s.writes[digest.Share("n1")] - before; writes < 8 || writes > atOnce+7 {
			t.Errorf("it was written %d times in 7 s", writes)
		}
	})
}

// While something could not be written there is no new heartbeat: speakers then watch Nodes
// themselves.
func TestPublisher_failing(t *testing.T) {
	lead(t, []runtime.Object{node("n1", "1"), node("n2", "1")}, func(t *testing.T, s *scene) {
		s.fails.Store(true)
		if _, err := s.CoreV1().Nodes().Update(t.Context(), node("n1", "2"), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		<-time.After(3 * digest.Every)
		s.wants(t, false, node("n1", "1"), node("n2", "1"))
		s.fails.Store(false)
		<-time.After(40 * time.Second) // the longest pause between two attempts is 30 s
		s.wants(t, true, node("n1", "2"), node("n2", "1"))
	})
}

// noted is an informer whose watch has brought a version.
type noted struct {
	cache.SharedIndexInformer
	version string
}

func (n noted) LastSyncResourceVersion() string { return n.version }

// A controller whose watch of Nodes brings nothing does not say that all is up to date.
func TestPublisher_sees(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		version string
		beats   []heartbeat
		want    bool
	}{
		{version: "5", want: true},
		{version: "5", beats: []heartbeat{{now.Add(-blind + time.Second), 9}}, want: true},
		{version: "5", beats: []heartbeat{{now.Add(-blind), 9}}},
		{version: "9", beats: []heartbeat{{now.Add(-blind), 9}}, want: true},
		{version: "8", beats: []heartbeat{{now.Add(-2 * blind), 7}, {now.Add(-blind), 9}, {now, 12}}},
		{version: "10", beats: []heartbeat{{now.Add(-2 * blind), 7}, {now.Add(-blind), 9}, {now, 12}}, want: true},
		{version: "no number", beats: []heartbeat{{now.Add(-blind), 9}}, want: true},
	} {
		p := &Publisher{Config: Config{Nodes: noted{version: c.version}}, beats: c.beats}
		if got := p.sees(now); got != c.want {
			t.Errorf("version %s, %v: sees %v, want %v", c.version, c.beats, got, c.want)
		}
	}
}

// What could not be written for some seconds is no longer up to date, and before the first
// heartbeat nothing may be missing.
func TestPublisher_settled(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		since time.Duration
		beats []heartbeat
		want  bool
	}{
		{since: time.Second},
		{since: behind - 1, beats: []heartbeat{{}}, want: true},
		{since: behind, beats: []heartbeat{{}}},
	} {
		p := &Publisher{
			beats:   c.beats,
			pending: map[string]pending{"a": {since: now}, "b": {since: now.Add(-c.since)}},
		}
		if got := p.settled(now); got != c.want {
			t.Errorf("pending for %v, %d beats: settled %v, want %v", c.since, len(c.beats), got, c.want)
		}
	}
}

// While the API server is slow and Nodes of every ConfigMap change all the time, there is a new
// heartbeat still.
func TestPublisher_slow(t *testing.T) {
	of := map[string]*corev1.Node{} // one of each ConfigMap
	for i := 0; len(of) < len(digest.Shares()); i++ {
		n := node(fmt.Sprint("n", i), "0")
		of[digest.Share(n.Name)] = n
	}
	nodes := slices.Collect(maps.Values(of))
	var objects []runtime.Object
	for _, n := range nodes {
		objects = append(objects, n)
	}
	var beats atomic.Int32
	leadBy(t, func(s *scene) kubernetes.Interface { return slow{s, &beats} }, objects, func(t *testing.T, s *scene) {
		begun := beats.Load()
		for round := range 11 {
			for _, n := range nodes {
				n.Labels["a"] = fmt.Sprint(round + 1)
				if _, err := s.CoreV1().Nodes().Update(t.Context(), n.DeepCopy(), metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			<-time.After(4 * time.Second)
		}
		synctest.Wait()
		if n := beats.Load() - begun; n < 2 {
			t.Errorf("%d heartbeats in 44 s, want one each %s", n, digest.Every)
		}
		<-time.After(2 * digest.Every)
		s.wants(t, true, nodes...)
	})
}

// A ConfigMap that comes to have what it is to have is not queued.
func TestPublisher_echoes(t *testing.T) {
	encoded, err := digest.Encode(node("n1", "1"))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		set := fake.NewClientset()
		p, err := New(Config{
			Kubernetes: set, Namespace: namespace,
			Nodes: informers.NewSharedInformerFactory(set, 0).Core().V1().Nodes().Informer(),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer p.queue.ShutDown()
		if err := p.Nodes.GetStore().Add(node("n1", "1")); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		running.Go(func() { _ = p.Watch(ctx) })
		synctest.Wait()
		its := set.CoreV1().ConfigMaps(namespace)
		m := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: digest.Share("n1"), Labels: digest.Labels()},
			Data:       map[string]string{"n1": encoded},
		}
		for _, step := range []struct {
			name string
			do   func() error
			want bool
		}{
			{"written", func() error { _, err := its.Create(ctx, m, metav1.CreateOptions{}); return err }, false},
			{"changed by somebody", func() error {
				other := m.DeepCopy()
				other.Data["n2"] = encoded
				_, err := its.Update(ctx, other, metav1.UpdateOptions{})
				return err
			}, true},
			{"put right", func() error { _, err := its.Update(ctx, m, metav1.UpdateOptions{}); return err }, false},
			{"deleted", func() error { return its.Delete(ctx, m.Name, metav1.DeleteOptions{}) }, true},
		} {
			clear(p.pending)
			if err := step.do(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if _, is := p.pending[m.Name]; is != step.want {
				t.Errorf("%s: it is queued: %t, want %t", step.name, is, step.want)
			}
		}
	})
}
