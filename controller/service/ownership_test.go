package service

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/record"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/config/v1alpha1/v1alpha1test"
)

var recordSecret = []byte("0123456789abcdef0123456789abcdef")

func balancer(class string, ingress ...corev1.LoadBalancerIngress) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "1"}}
	svc.Spec.Type = corev1.ServiceTypeLoadBalancer
	if class != "" {
		svc.Spec.LoadBalancerClass = &class
	}
	svc.Status.LoadBalancer.Ingress = ingress
	return svc
}

func ip(text string) corev1.LoadBalancerIngress { return corev1.LoadBalancerIngress{IP: text} }

// withRecordOf puts a record of these addresses into the status.
func withRecordOf(svc *corev1.Service, key []byte, uid string, addresses ...string) *corev1.Service {
	r := record.Record{UID: "1", Request: record.RequestOf(nil)}
	if uid != "" {
		r.UID = "2"
	}
	for _, a := range addresses {
		r.Addresses = append(r.Addresses, netip.MustParseAddr(a))
	}
	svc.Status.Conditions = append(svc.Status.Conditions, r.Condition(key, metav1.Time{}))
	return svc
}

// A Service is Berth's if Berth gave it what it has.
func TestOwnershipOf(t *testing.T) {
	pool := func(
		name string, addresses v1alpha1.AddressRange, takeOver bool, namespaces ...string,
	) *v1alpha1.LoadBalancerPool {
		p := &v1alpha1.LoadBalancerPool{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       v1alpha1.LoadBalancerPoolSpec{Addresses: []v1alpha1.AddressRange{addresses}},
		}
		if takeOver {
			p.Spec.TakeOver = v1alpha1.TakeOverAlways
		}
		if len(namespaces) > 0 {
			p.Spec.Scopes = []v1alpha1.PoolScope{{NamespaceNames: namespaces, ServiceSelector: &v1alpha1.Selector{}}}
		}
		return p
	}
	snapshot, _ := config.Compile(config.Objects{Pools: v1alpha1test.SelectAll([]*v1alpha1.LoadBalancerPool{
		pool("plain", "192.0.2.0/24", false),
		pool("adopts", "198.51.100.0/24", true),
		pool("elsewhere", "203.0.113.0/24", true, "bank"),
	})})
	host := corev1.LoadBalancerIngress{Hostname: "lb.example.com"}
	formerKey := []byte("the key of a former installation")
	tests := map[string]struct {
		svc  *corev1.Service
		held bool
		want Ownership
	}{
		"no class, nothing in its status": {
			svc:  balancer(""),
			want: Own,
		},
		"no class, another's address": {
			svc:  balancer("", ip("10.22.203.3")),
			want: Others,
		},
		"no class, another's address of a pool": {
			svc:  balancer("", ip("192.0.2.1")),
			want: Others,
		},
		"no class, another's host name": {
			svc:  balancer("", host),
			want: Others,
		},
		"our class, whatever its status": {
			svc:  balancer("berth.dev/lb", ip("10.22.203.3")),
			want: Own,
		},
		"another class": {
			svc:  balancer("example.com/lb"),
			want: NotServed,
		},
		"a recorded address": {
			svc:  withRecordOf(balancer("", ip("192.0.2.1")), recordSecret, "", "192.0.2.1"),
			want: Own,
		},
		"a recorded address and another's beside it": {
			svc:  withRecordOf(balancer("", ip("192.0.2.1"), ip("10.0.0.1")), recordSecret, "", "192.0.2.1"),
			want: Own,
		},
		"a record of another Service": {
			svc:  withRecordOf(balancer("", ip("192.0.2.1")), recordSecret, "another", "192.0.2.1"),
			want: Others,
		},
		"a record of a former installation": {
			svc:  withRecordOf(balancer("", ip("192.0.2.1")), formerKey, "", "192.0.2.1"),
			want: Own,
		},
		"a record of a former installation of another address": {
			svc:  withRecordOf(balancer("", ip("192.0.2.2")), formerKey, "", "192.0.2.1"),
			want: Others,
		},
		"a record of a former installation outside the pools": {
			svc:  withRecordOf(balancer("", ip("10.0.0.1")), formerKey, "", "10.0.0.1"),
			want: Others,
		},
		"a record of a former installation, of Berth's class": {
			svc:  withRecordOf(balancer("berth.dev/lb", ip("10.0.0.1")), formerKey, "", "10.0.0.1"),
			want: Own,
		},
		"held, though the status was overwritten": {
			svc:  balancer("", ip("10.22.203.3")),
			held: true,
			want: Own,
		},
		"an address of a pool that takes over": {
			svc:  balancer("", ip("198.51.100.1")),
			want: TakenOver,
		},
		"one of two addresses of a pool that takes over": {
			svc:  balancer("", ip("198.51.100.1"), ip("10.0.0.1")),
			want: Others,
		},
		"two addresses of one family": {
			svc:  balancer("", ip("198.51.100.1"), ip("198.51.100.2")),
			want: Others,
		},
		"a host name beside an address of that pool": {
			svc:  balancer("", ip("198.51.100.1"), host),
			want: Others,
		},
		"an address of a pool that takes over for others": {
			svc:  balancer("", ip("203.0.113.1")),
			want: Others,
		},
	}
	for name, x := range tests {
		classes := Classes{Names: []string{"berth.dev/lb"}, Classless: true}
		got := NotServed
		if classes.Selects(x.svc) {
			r, recorded := RecordOf(x.svc, recordSecret, nil, snapshot)
			if strings.HasSuffix(name, "of Berth's class") && len(r.Addresses) != 1 {
				t.Errorf("%s: the record is lost", name)
			}
			got = OwnershipOf(x.svc, recorded, x.held, nil, snapshot)
		}
		if got != x.want {
			t.Errorf("%s: %d, want %d", name, got, x.want)
		}
	}
}

func TestClassesSelects(t *testing.T) {
	node := balancer("")
	node.Spec.Type = corev1.ServiceTypeNodePort
	for _, x := range []struct {
		name string
		c    Classes
		svc  *corev1.Service
		want bool
	}{
		{
			name: "one of two classes",
			c:    Classes{Names: []string{"a", "b"}},
			svc:  balancer("b"),
			want: true,
		},
		{
			name: "another class",
			c:    Classes{Names: []string{"a", "b"}, Classless: true},
			svc:  balancer("c"),
		},
		{
			name: "no class, which is not served",
			c:    Classes{Names: []string{"a"}},
			svc:  balancer(""),
		},
		{
			name: "no class, which is served",
			c:    Classes{Names: []string{"a"}, Classless: true},
			svc:  balancer(""),
			want: true,
		},
		{
			name: "another type",
			c:    Classes{Names: []string{"a"}, Classless: true},
			svc:  node,
		},
	} {
		t.Run(x.name, func(t *testing.T) {
			if got := x.c.Selects(x.svc); got != x.want {
				t.Errorf("%v selects class %v: %v", x.c, x.svc.Spec.LoadBalancerClass, got)
			}
		})
	}
}

// managed records in the object who wrote its status, and when.
func managed(svc *corev1.Service, manager string, at time.Time, fields string) *corev1.Service {
	when := metav1.NewTime(at)
	svc.ManagedFields = append(
		svc.ManagedFields,
		metav1.ManagedFieldsEntry{Manager: manager, Time: &when, FieldsV1: metav1.NewFieldsV1(fields)},
	)
	return svc
}

const statusFields = `{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}`

// LastWriter is the last writer that is not Berth.
func TestLastWriter(t *testing.T) {
	at := time.Unix(1000, 0)
	svc := balancer("")
	managed(svc, "kubectl-create", at.Add(time.Hour), `{"f:spec":{"f:type":{}}}`)
	managed(svc, "old", at, statusFields)
	managed(svc, "metallb-controller", at.Add(time.Minute), statusFields)
	managed(svc, "berth-controller", at.Add(2*time.Minute), statusFields)
	managed(svc, "hostile", at.Add(3*time.Minute), `{"f:status":`)
	if got := LastWriter(svc); got != "metallb-controller" {
		t.Errorf("the other writer is %q, want metallb-controller", got)
	}
	if got := WriterOf(balancer("")); got != "another controller" {
		t.Errorf("of an object that does not tell: %q", got)
	}
}

// A status that is overwritten repeatedly is left alone for longer each time.
func TestWritesReview(t *testing.T) {
	var lost int
	c := Writes{Lost: func() { lost++ }}
	now := time.Unix(1000, 0)
	ours := balancer("", ip("192.0.2.1"))
	c.Wrote("shop/web", ours)
	var waits []time.Duration
	for i := range 6 {
		theirs := balancer("", ip("172.30.0.11"))
		theirs.ResourceVersion = string(rune('a' + i))
		managed(theirs, "k3s", now, statusFields)
		wait := c.Review("shop/web", theirs, now)
		waits = append(waits, wait)
		if again := c.Review("shop/web", theirs, now); again != wait {
			t.Errorf("the same version counts twice: %s, then %s", wait, again)
		}
		now = now.Add(wait)
		if left := c.Review("shop/web", theirs, now); left != 0 {
			t.Errorf("%s are left after %s", left, wait)
		}
		now = now.Add(100 * time.Millisecond)
	}
	want := []time.Duration{0, 0, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second}
	for i := range want {
		if waits[i] != want[i] {
			t.Errorf("waits %v, want %v", waits, want)
			break
		}
	}
	if lost != 6 {
		t.Errorf("%d overwritten statuses were counted, want 6", lost)
	}
	if writer, delay, is := c.News("shop/web"); !is || writer != "field manager k3s" || delay != 16*time.Second {
		t.Errorf("news: %q %s %v", writer, delay, is)
	}
	if _, _, is := c.News("shop/web"); is {
		t.Error("one wait is told twice")
	}
	if c.Writer("shop/web") != "field manager k3s" {
		t.Error("the condition does not name the other writer")
	}
	// Peace again.
	if wait := c.Review("shop/web", ours, now.Add(contestOver+time.Minute)); wait != 0 || c.Writer("shop/web") != "" {
		t.Error("a fight that is over is still told")
	}
}

// One edit of the status by hand is put right at once.
func TestWritesReviewOneEdit(t *testing.T) {
	c := Writes{}
	c.Wrote("shop/web", balancer("", ip("192.0.2.1")))
	theirs := balancer("")
	theirs.ResourceVersion = "7"
	if wait := c.Review("shop/web", theirs, time.Unix(1000, 0)); wait != 0 || c.Writer("shop/web") != "" {
		t.Errorf("waits %s for %q", wait, c.Writer("shop/web"))
	}
}

// A Service that is deleted and created again does not count as overwritten.
func TestWritesReviewNewService(t *testing.T) {
	c := Writes{Lost: func() { t.Error("it was counted") }}
	c.Wrote("shop/web", balancer("", ip("192.0.2.1")))
	anew := balancer("")
	anew.UID = "2"
	if wait := c.Review("shop/web", anew, time.Unix(1000, 0)); wait != 0 {
		t.Errorf("waits %s", wait)
	}
}

// A long name is cut between characters.
func TestLastWriterLongName(t *testing.T) {
	svc := balancer("")
	managed(svc, strings.Repeat("a", config.LongestQuote-1)+"é", time.Unix(1000, 0), statusFields)
	if got := LastWriter(svc); got != strings.Repeat("a", config.LongestQuote-1) {
		t.Errorf("%q", got)
	}
}
