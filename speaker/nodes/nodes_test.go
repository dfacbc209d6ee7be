package nodes

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/digest"
)

// api is an API server's Nodes and ConfigMaps, and who watches them.
type api struct {
	*fake.Clientset
	mu       sync.Mutex
	version  int
	away     bool
	refuses  bool // to show ConfigMaps
	objects  map[string]metav1.Object
	watchers map[*viewer]bool
}

// viewer is a watch of those objects that its view shows.
type viewer struct {
	*watch.RaceFreeFakeWatcher
	shows func(metav1.Object) bool
}

// view is a source of some of the objects.
type view struct {
	*api
	shows func(metav1.Object) bool
	list  func(version string, items []metav1.Object) runtime.Object
}

// IsWatchListSemanticsUnSupported has informers list.
func (view) IsWatchListSemanticsUnSupported() bool { return true }

func (view) List(metav1.ListOptions) (runtime.Object, error)   { panic("without a context") }
func (view) Watch(metav1.ListOptions) (watch.Interface, error) { panic("without a context") }

func (v view) ListWithContext(context.Context, metav1.ListOptions) (runtime.Object, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.trouble(); err != nil {
		return nil, err
	}
	var items []metav1.Object
	for _, name := range slices.Sorted(maps.Keys(v.objects)) {
		if o := v.objects[name]; v.shows(o) {
			items = append(items, o)
		}
	}
	return v.list(strconv.Itoa(v.version), items), nil
}

func (v view) trouble() error {
	if v.away {
		return apierrors.NewServiceUnavailable("away")
	}
	if v.refuses && v.shows(&corev1.ConfigMap{}) {
		return apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "", nil)
	}
	return nil
}

func (v view) WatchWithContext(context.Context, metav1.ListOptions) (watch.Interface, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.trouble(); err != nil {
		return nil, err
	}
	w := &viewer{watch.NewRaceFreeFake(), v.shows}
	v.watchers[w] = true
	return w, nil
}

func (w *viewer) tell(kind watch.EventType, o metav1.Object) {
	if object, ok := o.(runtime.Object); ok && w.shows(o) && !w.IsStopped() {
		w.Action(kind, object)
	}
}

// put creates or changes an object.
func (a *api) put(o metav1.Object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.version++
	o.SetResourceVersion(strconv.Itoa(a.version))
	a.objects[o.GetName()] = o
	for w := range a.watchers {
		w.tell(watch.Modified, o)
	}
}

func (a *api) remove(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := a.objects[name]
	delete(a.objects, name)
	for w := range a.watchers {
		w.tell(watch.Deleted, o)
	}
}

// interrupt ends all watches, and lets none begin if the API server is away from now on.
func (a *api) interrupt(away bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.away = away
	for w := range a.watchers {
		w.Stop()
	}
	clear(a.watchers)
}

// open returns what is watched.
func (a *api) open() (open []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for w := range a.watchers {
		switch {
		case w.IsStopped():
		case w.shows(&corev1.ConfigMap{}):
			open = append(open, "digests")
		case w.shows(node("other", nil)):
			open = append(open, "all")
		default:
			open = append(open, "own")
		}
	}
	slices.Sort(open)
	return open
}

func node(name string, labels map[string]string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// publish is what a controller does: it publishes these Nodes, and then a heartbeat.
func (a *api) publish(t *testing.T, nodes ...*corev1.Node) {
	t.Helper()
	shares := map[string]map[string]string{}
	for _, n := range nodes {
		text, err := digest.Encode(n)
		if err != nil {
			t.Fatal(err)
		}
		name := digest.Share(n.Name)
		if shares[name] == nil {
			shares[name] = map[string]string{}
		}
		shares[name][n.Name] = text
	}
	for name, data := range shares {
		a.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: name}, Data: data})
	}
	a.beat()
}

// beat writes a heartbeat with the ConfigMaps that there are.
func (a *api) beat() {
	a.mu.Lock()
	var shares []string
	for name, o := range a.objects {
		if _, ok := o.(*corev1.ConfigMap); ok && digest.IsShare(name) {
			shares = append(shares, name)
		}
	}
	a.mu.Unlock()
	a.put(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "berth-system",
			Name:      digest.Name,
		}, Data: digest.NewHeartbeat(time.Now(), shares).Data(),
	})
}

// scene is node n1 with an API server.
type scene struct {
	*api
	nodes *Nodes
	gone  map[string]bool
}

// begin runs the test on node n1, once the API server has what prepare puts there.
func begin(t *testing.T, prepare func(*api), test func(*testing.T, *scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := &api{Clientset: fake.NewClientset(), objects: map[string]metav1.Object{}, watchers: map[*viewer]bool{}}
		prepare(a)
		a.PrependReactor("list", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			if err := (view{api: a, shows: isConfigMap}).trouble(); err != nil {
				return true, nil, err
			}
			list := &corev1.ConfigMapList{}
			if m, ok := a.objects[digest.Name].(*corev1.ConfigMap); ok {
				list.Items = append(list.Items, *m)
			}
			return true, list, nil
		})
		n := newNodes(
			Config{Kubernetes: a, Namespace: "berth-system", Node: "n1", Logger: slog.New(slog.DiscardHandler)},
			a.informer(func(o metav1.Object) bool { return isNode(o) && o.GetName() == "n1" }),
			a.informer(isConfigMap),
			func() (cache.SharedIndexInformer, error) { return a.informer(isNode), nil },
		)
		if err := n.follow(); err != nil {
			t.Fatal(err)
		}
		s := &scene{api: a, nodes: n, gone: map[string]bool{}}
		n.OnChange(func(_, after *corev1.Node) {
			if after == nil {
				s.gone["some"] = true
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := n.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		defer func() {
			cancel()
			running.Wait()
			n.refresh("n2") // informers tell of what they have still, also then
		}()
		if !cache.WaitForCacheSync(ctx.Done(), n.HasSynced) {
			t.Fatal("the Nodes are not known")
		}
		test(t, s)
	})
}

func isNode(o metav1.Object) bool { _, node := o.(*corev1.Node); return node }

func isConfigMap(o metav1.Object) bool { return !isNode(o) }

// informer returns an informer of some of the objects.
func (a *api) informer(shows func(metav1.Object) bool) cache.SharedIndexInformer {
	var example runtime.Object = &corev1.ConfigMap{}
	list := func(version string, items []metav1.Object) runtime.Object {
		l := &corev1.ConfigMapList{ListMeta: metav1.ListMeta{ResourceVersion: version}}
		for _, o := range items {
			l.Items = append(l.Items, *o.(*corev1.ConfigMap))
		}
		return l
	}
	if !shows(example.(metav1.Object)) {
		example = &corev1.Node{}
		list = func(version string, items []metav1.Object) runtime.Object {
			l := &corev1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: version}}
			for _, o := range items {
				l.Items = append(l.Items, *o.(*corev1.Node))
			}
			return l
		}
	}
	return cache.NewSharedIndexInformer(view{a, shows, list}, example, 0, cache.Indexers{})
}

// wants checks the Nodes with their label a, and what is watched, after a time.
func (s *scene) wants(t *testing.T, after time.Duration, nodes string, open ...string) {
	t.Helper()
	<-time.After(after)
	synctest.Wait()
	var got []string
	for _, n := range s.nodes.All() {
		got = append(got, n.Name+":"+n.Labels["a"])
	}
	slices.Sort(got)
	if text := strings.Join(got, " "); text != nodes {
		t.Errorf("the Nodes are %q, want %q", text, nodes)
	}
	if is := s.open(); !slices.Equal(is, open) {
		t.Errorf("%v is watched, want %v", is, open)
	}
}

// controlled prepares a cluster with a controller. Nodes in the API differ from what is published,
// to tell the two.
func controlled(t *testing.T) func(*api) {
	return func(a *api) {
		for _, name := range []string{"n1", "n2", "n3"} {
			a.put(node(name, map[string]string{"a": "full"}))
		}
		digested := map[string]string{"a": "digest"}
		a.publish(t, node("n1", digested), node("n2", digested), node("n3", digested))
	}
}

const (
	inFull   = "n1:full n2:full n3:full"
	inDigest = "n1:full n2:digest n3:digest"
)

func TestNodes_readsDigestsAndItsOwnNode(t *testing.T) {
	begin(t, controlled(t), func(t *testing.T, s *scene) {
		s.wants(t, 0, inDigest, "digests", "own")
		s.put(node("n1", map[string]string{"a": "changed"}))
		digested := map[string]string{"a": "new"}
		s.publish(t, node("n1", digested), node("n2", digested), node("n3", digested), node("n4", digested))
		s.wants(t, time.Millisecond, "n1:changed n2:new n3:new n4:new", "digests", "own")
		s.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: digest.Share("n2")}})
		s.beat()
		s.wants(t, time.Millisecond, "n1:changed n3:new n4:new", "digests", "own")
		s.remove("n1")
		s.wants(t, time.Millisecond, "n3:new n4:new", "digests", "own")
	})
}

// Without a controller, or one of before, or one that published long ago, all Nodes are watched.
func TestNodes_readsAllNodes(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(*api)
		open    []string
	}{
		{name: "no controller", prepare: func(a *api) {
			for _, name := range []string{"n1", "n2", "n3"} {
				a.put(node(name, map[string]string{"a": "full"}))
			}
		}, open: []string{"all", "digests", "own"}},
		{name: "no right to read ConfigMaps", prepare: func(a *api) {
			controlled(t)(a)
			a.refuses = true
		}, open: []string{"all", "own"}},
		{name: "published long ago", prepare: func(a *api) {
			controlled(t)(a)
			<-time.After(digest.Patience)
		}, open: []string{"all", "digests", "own"}},
		{name: "fewer Nodes than the heartbeat says", prepare: func(a *api) {
			controlled(t)(a)
			a.remove(digest.Share("n2"))
		}, open: []string{"all", "digests", "own"}},
		{name: "a digest that is none", prepare: func(a *api) {
			controlled(t)(a)
			a.put(&corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: digest.Share("n2")},
				Data:       map[string]string{"n2": "{"},
			})
			a.beat()
		}, open: []string{"all", "digests", "own"}},
		{name: "a heartbeat that is none", prepare: func(a *api) {
			controlled(t)(a)
			a.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: digest.Name}})
		}, open: []string{"all", "digests", "own"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			begin(t, c.prepare, func(t *testing.T, s *scene) {
				s.wants(t, 0, inFull, c.open...)
				s.put(node("n3", map[string]string{"a": "changed"}))
				s.wants(t, time.Millisecond, "n1:full n2:full n3:changed", c.open...)
			})
		})
	}
}

// A controller that begins to publish is noticed, also where it can be read only later.
func TestNodes_noticesAController(t *testing.T) {
	digested := map[string]string{"a": "digest"}
	publish := func(s *scene) { s.publish(t, node("n1", digested), node("n2", digested), node("n3", digested)) }
	begin(t, func(a *api) { controlled(t)(a); <-time.After(time.Hour) }, func(t *testing.T, s *scene) {
		s.wants(t, time.Hour, inFull, "all", "digests", "own")
		publish(s)
		s.wants(t, time.Second, inDigest, "digests", "own")
	})
	begin(t, func(a *api) { controlled(t)(a); a.refuses = true }, func(t *testing.T, s *scene) {
		s.wants(t, 0, inFull, "all", "own")
		s.refuse(false)
		<-time.After(time.Minute) // the longest pause between two attempts
		publish(s)
		s.wants(t, time.Second, inDigest, "digests", "own")
	})
}

// The right to read what is published may go while it is read, as when Berth is set back to an
// older version: whether the API server refuses everything, or only the next watch.
func TestNodes_rightsTakenAway(t *testing.T) {
	begin(t, controlled(t), func(t *testing.T, s *scene) {
		s.refuse(true)
		s.interrupt(false)
		s.put(node("n3", map[string]string{"a": "changed"}))
		s.beats(2 * time.Minute)
		s.wants(t, 0, "n1:full n2:full n3:changed", "all", "own")
		s.refuse(false)
		s.beats(2 * time.Minute)
		s.wants(t, 0, inDigest, "digests", "own")
	})
}

func (s *scene) refuse(refuses bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuses = refuses
}

// beats keeps what is published up to date for a time.
func (s *scene) beats(long time.Duration) {
	for range long / digest.Every {
		<-time.After(digest.Every)
		s.beat()
	}
}

// A controller that ends, and nothing else, has all Nodes watched after two minutes.
func TestNodes_noticesThatNobodyPublishes(t *testing.T) {
	begin(t, controlled(t), func(t *testing.T, s *scene) {
		s.beats(time.Hour)
		s.wants(t, digest.Patience-time.Second, inDigest, "digests", "own")
		s.wants(t, 2*time.Minute, inFull, "all", "digests", "own")
		s.beat()
		s.wants(t, 10*time.Second, inDigest, "digests", "own")
	})
}

// Nothing follows from an API server that does not answer, for however long, nor if the controller
// takes some time after that.
func TestNodes_keepsWhatItHasWhileTheAPIIsAway(t *testing.T) {
	begin(t, controlled(t), func(t *testing.T, s *scene) {
		s.interrupt(true)
		s.wants(t, time.Hour, inDigest)
		s.interrupt(false)
		<-time.After(10 * time.Second)
		for range 6 {
			<-time.After(digest.Every)
			s.beat()
			if slices.Contains(s.open(), "all") {
				t.Error("all Nodes are watched")
			}
		}
		s.wants(t, 0, inDigest, "digests", "own")
	})
}

// To delete what is published is not to delete Nodes. They go once a heartbeat does without it.
func TestNodes_doesNotBelieveDeletions(t *testing.T) {
	begin(t, controlled(t), func(t *testing.T, s *scene) {
		before := s.objects[digest.Name].(*corev1.ConfigMap).Data
		s.remove(digest.Share("n2"))
		s.remove(digest.Name)
		s.wants(t, time.Minute, inDigest, "digests", "own")
		data := maps.Clone(before) // a heartbeat before the controller has noticed
		data["renewed"] = digest.NewHeartbeat(time.Now(), nil).Renewed
		s.put(
			&corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: digest.Name},
				Data:       data,
			},
		)
		s.wants(t, time.Minute, inDigest, "digests", "own")
		controlled(t)(s.api)
		s.wants(t, time.Second, inDigest, "digests", "own")
		if len(s.gone) > 0 {
			t.Error("a Node was deleted")
		}
		s.remove(digest.Share("n2"))
		s.beat()
		s.wants(t, time.Second, "n1:full n3:digest", "digests", "own")
	})
}

// ConfigMaps of others, a Node in two of them, and an older controller.
func TestNodes_whatElseThereMayBe(t *testing.T) {
	other := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "other"},
		Data:       map[string]string{"n9": "{}", "n8": "{"},
	}
	begin(t, func(a *api) { a.put(other); controlled(t)(a) }, func(t *testing.T, s *scene) {
		s.wants(t, 0, inDigest, "digests", "own")
		// Another version spreads Nodes over other ConfigMaps: it writes its own first.
		old := s.objects[digest.Share("n2")].(*corev1.ConfigMap)
		s.put(
			&corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: digest.Name + "-x"},
				Data:       maps.Clone(old.Data),
			},
		)
		s.remove(old.Name)
		s.beat()
		s.wants(t, time.Second, inDigest, "digests", "own")
		if len(s.gone) > 0 {
			t.Error("a Node was deleted")
		}
		h := digest.NewHeartbeat(time.Now(), nil)
		h.Format--
		s.put(
			&corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: digest.Name},
				Data:       h.Data(),
			},
		)
		s.wants(t, time.Second, inFull, "all", "digests", "own")
	})
}

// A ConfigMap that a heartbeat does not know yet is there all the same.
func TestNodes_newConfigMap(t *testing.T) {
	begin(t, controlled(t), func(t *testing.T, s *scene) {
		s.put(&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: digest.Name},
			Data:       digest.NewHeartbeat(time.Now(), nil).Data(),
		})
		s.wants(t, time.Minute, inDigest, "digests", "own")
	})
}

// A Node that came or went since the last heartbeat is no reason to list all.
func TestNodes_betweenHeartbeats(t *testing.T) {
	begin(t, func(a *api) {
		controlled(t)(a)
		a.put(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "berth-system", Name: digest.Share("n2")}})
	}, func(t *testing.T, s *scene) { s.wants(t, 0, "n1:full n3:digest", "digests", "own") })
}

// While it is found out where Nodes are from, and while that changes, none is missing.
func TestNodes_changesOverWithoutAGap(t *testing.T) {
	begin(t, controlled(t), func(t *testing.T, s *scene) {
		for range 5 {
			s.beats(10 * time.Minute)
			s.wants(t, 10*time.Minute, inFull, "all", "digests", "own")
		}
		if len(s.gone) > 0 {
			t.Error("a Node was deleted")
		}
	})
}
