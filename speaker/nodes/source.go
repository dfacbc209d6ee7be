package nodes

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-lb/berth/config/candidate"
	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/digest"
	"github.com/berth-lb/berth/speaker/contact"
)

// unpublished is how long Nodes are watched in full before it is asked again whether a controller
// publishes them, where ConfigMaps cannot be read.
const unpublished = 10 * time.Minute

// Config of a Source.
type Config struct {
	Kubernetes kubernetes.Interface
	Namespace  string // that of Berth's own objects
	Node       string // the speaker's own
	Logger     *slog.Logger
}

// Source lists and watches Nodes, as candidate.SlimNode has them. A watch ends with the error that
// its resource version is too old when Nodes are to be had in the other way from then on, so that
// the informer lists them again. One informer reads from it, with one call at a time.
type Source struct {
	Config
	all, own, digests client.ListerWatcher
	patience          time.Duration // until a heartbeat counts as late

	// What follows is of the List or the watch that runs.
	heard     heard
	refused   string            // the heartbeat that did not fit what was published
	turn      *contact.Turn     // of the watches
	published *published        // what the digests had; nil: they cannot be read
	inFull    bool              // the last List had all Nodes from the API
	versions  map[string]string // resource versions of the last List: of all or own, and of digests
	running   *watcher          // the last watch, which may have ended
}

// NewSource returns a Source that has asked nothing yet.
func NewSource(c Config) *Source {
	core := c.Kubernetes.CoreV1().RESTClient()
	node := client.Compact[*corev1.Node]{
		Client: core, Resource: "nodes", New: func() *corev1.Node { return &corev1.Node{} },
		Keep: func(node *corev1.Node) runtime.Object { return candidate.SlimNode(node) },
	}
	own := node
	own.Select = func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, c.Node).String()
	}
	return &Source{
		Config: c, all: node.ListerWatcher(), own: own.ListerWatcher(),
		digests: client.Compact[*corev1.ConfigMap]{
			Client: core, Resource: "configmaps", Namespace: c.Namespace,
			New:    func() *corev1.ConfigMap { return &corev1.ConfigMap{} },
			Select: func(o *metav1.ListOptions) { o.LabelSelector = digest.Selector() },
			Keep:   func(m *corev1.ConfigMap) runtime.Object { return m },
		}.ListerWatcher(),
		// Not all at once: each then lists all Nodes.
		patience: digest.Patience + rand.N(digest.Every),
	}
}

// Informer returns an informer, not running yet, that reads from the source.
func (s *Source) Informer() cache.SharedIndexInformer {
	return cache.NewSharedIndexInformer(s, &corev1.Node{}, 0, cache.Indexers{})
}

// IsWatchListSemanticsUnSupported tells the informer to list before it watches.
func (*Source) IsWatchListSemanticsUnSupported() bool { return true }

// List implements cache.Lister.
func (s *Source) List(o metav1.ListOptions) (runtime.Object, error) {
	return s.ListWithContext(context.Background(), o)
}

// ListWithContext implements cache.ListerWithContext. It returns all, whatever page was asked for.
func (s *Source) ListWithContext(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
	if s.running != nil {
		s.running.Stop()
	}
	s.turn, s.versions, s.published = s.turn.Next(), map[string]string{}, nil
	maps, version, err := list[*corev1.ConfigMap](ctx, s.digests)
	switch {
	case apierrors.IsForbidden(err) || apierrors.IsNotFound(err):
		s.Logger.Warn("watches all Nodes: what the controller publishes of them cannot be read", "error", err)
	case err != nil:
		return nil, err
	default:
		s.published, s.versions[ofDigests] = newPublished(), version
		for _, m := range maps {
			s.read(m)
		}
	}
	before := s.inFull
	if s.inFull = !s.upToDate(time.Now()); s.inFull != before {
		s.Logger.Info("has Nodes from another source", "inFull", s.inFull, "heartbeat", s.heard.Renewed)
	}
	from := s.own
	if s.inFull {
		from = s.all
	}
	nodes, version, err := list[*corev1.Node](ctx, from)
	if err != nil {
		return nil, err
	}
	s.versions[ofNodes] = version
	all := &corev1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: version}}
	for _, n := range nodes {
		all.Items = append(all.Items, *n)
	}
	if s.inFull {
		return all, nil
	}
	for name, n := range s.published.nodes {
		if name != s.Node {
			all.Items = append(all.Items, *n.node)
		}
	}
	return all, nil
}

// list returns all objects, and the resource version of their list.
func list[T runtime.Object](ctx context.Context, from client.ListerWatcher) (items []T, version string, err error) {
	found, err := from.ListWithContext(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, "", err
	}
	err = meta.EachListItem(found, func(o runtime.Object) error {
		item, ok := o.(T)
		if !ok {
			return fmt.Errorf("a list has a %T", o)
		}
		items = append(items, item)
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	its, err := meta.ListAccessor(found)
	if err != nil {
		return nil, "", err
	}
	return items, its.GetResourceVersion(), nil
}

// read notes what a ConfigMap says, and returns the events that this makes.
func (s *Source) read(m *corev1.ConfigMap) []watch.Event {
	if m.Name != digest.Name {
		events, err := s.published.put(m)
		if err != nil {
			s.Logger.Warn("what the controller publishes of Nodes cannot be read", "configMap", m.Name, "error", err)
		}
		return events
	}
	h, err := digest.HeartbeatIn(m.Data)
	if err != nil {
		s.refuse(err.Error())
		return nil
	}
	s.heard.note(h, time.Now())
	return nil
}

// refuse has Nodes watched in full until the next heartbeat.
func (s *Source) refuse(why string) {
	s.refused = s.heard.Renewed
	s.Logger.Warn("what the controller publishes of Nodes does not count until it is renewed", "why", why)
}

// upToDate reports whether what is published can be relied on.
func (s *Source) upToDate(now time.Time) bool {
	if s.published == nil || s.heard.Renewed == "" || s.heard.Renewed == s.refused || s.heard.late(now, s.patience) {
		return false
	}
	// There are more if Nodes came since.
	if got := len(s.published.nodes); got < s.heard.Nodes {
		s.refuse(fmt.Sprintf("it has %d Nodes, not %d", got, s.heard.Nodes))
		return false
	}
	return len(s.published.unread) == 0
}
