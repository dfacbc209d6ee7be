package nodedigest

import (
	"context"
	"errors"
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
	"k8s.io/client-go/kubernetes/fake"
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

// lead runs the test beside a publisher that leads.
func lead(t *testing.T, objects []runtime.Object, test func(*testing.T, *scene)) {
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
			Kubernetes: s, Namespace: namespace, Nodes: factory.Core().V1().Nodes().Informer(),
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
