package view

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/kubectl/cluster"
)

// Pool is a LoadBalancerPool, and how much of it is in use.
type Pool struct {
	Name       string   `json:"name"`
	Addresses  []string `json:"addresses"`
	Allocation string   `json:"allocation"`
	IPv4       *Usage   `json:"ipv4,omitempty"`
	IPv6       *Usage   `json:"ipv6,omitempty"`
	// AnnouncedBy are the announcements that select it.
	AnnouncedBy []string `json:"announcedBy,omitempty"`
	// Problem is what is wrong with it; empty: nothing.
	Problem string `json:"problem,omitempty"`
}

// Usage counts addresses of one family. Counts are texts, for IPv6 has more than a number holds.
type Usage struct {
	Total    string `json:"total"`
	Assigned string `json:"assigned"`
	Free     string `json:"free"`
	// Reserved are kept by AddressReservations, Resting were freed a moment ago, and Excluded are in
	// use elsewhere; empty: none.
	Reserved string `json:"reserved,omitempty"`
	Resting  string `json:"resting,omitempty"`
	Excluded string `json:"excluded,omitempty"`
}

// String returns the usage as a column.
func (u *Usage) String() string {
	if u == nil {
		return "-"
	}
	text := u.Assigned + " used, " + u.Free + " free"
	for _, more := range []struct{ count, is string }{
		{u.Reserved, "reserved"}, {u.Resting, "resting"}, {u.Excluded, "in use elsewhere"},
	} {
		if more.count != "" {
			text += ", " + more.count + " " + more.is
		}
	}
	return text
}

// PoolsOf returns the pools, by name.
func PoolsOf(s *cluster.State) []Pool {
	snapshot, problems := config.Compile(s.Objects())
	var rows []Pool
	for _, p := range s.Pools {
		row := Pool{
			Name: p.Name, Allocation: string(p.Spec.Allocation),
			IPv4: usageOf(p.Status.IPv4), IPv6: usageOf(p.Status.IPv6),
		}
		for _, a := range p.Spec.Addresses {
			row.Addresses = append(row.Addresses, string(a))
		}
		if compiled := snapshot.Pool(p.Name); compiled != nil {
			row.AnnouncedBy = snapshot.AnnouncementsOf(compiled)
		}
		for _, problem := range problems[config.Key{Kind: "LoadBalancerPool", Name: p.Name}] {
			if row.Problem == "" || !problem.Harmless {
				row.Problem = problem.Message
			}
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b Pool) int { return strings.Compare(a.Name, b.Name) })
	return rows
}

func usageOf(u v1alpha1.AddressUsage) *Usage {
	if u.Total == "" || u.Total == "0" {
		return nil
	}
	some := func(n v1alpha1.Count) string {
		if n == "0" {
			return ""
		}
		return string(n)
	}
	return &Usage{
		Total: string(u.Total), Assigned: string(u.Assigned), Free: string(u.Free),
		Reserved: some(u.Reserved), Resting: some(u.Resting), Excluded: some(u.Excluded),
	}
}

// Holder is who has an address.
type Holder struct {
	Address string `json:"address"`
	Pool    string `json:"pool,omitempty"`
	// Services whose status has it.
	Services []string `json:"services,omitempty"`
	// Node that answers for it on a segment, by segment.
	Owners map[string]string `json:"owners,omitempty"`
	// Text says in one sentence who has it, or why nobody does.
	Text string `json:"text"`
}

// WhoHas says who has an address.
func WhoHas(s *cluster.State, address netip.Addr) Holder {
	snapshot, _ := config.Compile(s.Objects())
	h := Holder{Address: address.String()}
	p := snapshot.PoolOf(address)
	if p != nil {
		h.Pool = p.Name
	}
	for _, svc := range s.Holders(address) {
		h.Services = append(h.Services, svc.Namespace+"/"+svc.Name)
	}
	for _, o := range s.Owners {
		if o.Status.Address == h.Address {
			if h.Owners == nil {
				h.Owners = map[string]string{}
			}
			h.Owners[o.Status.Segment] = o.Status.NodeName
		}
	}
	use, used := s.Uses(snapshot).Of(address)
	switch {
	case len(h.Services) > 0:
		h.Text = "Service " + strings.Join(h.Services, " and ") + " has it"
		if used {
			h.Text += "; but it is " + use.By
		}
	case used:
		h.Text = "it is not given: it is " + use.By
	case reservedFor(s, address) != "":
		h.Text = "it is reserved by AddressReservation " + reservedFor(s, address)
	case len(s.Lack(cluster.Services, cluster.Pools)) > 0:
		h.Text = "it is not known who has it: Services or pools could not be read"
	case p == nil:
		h.Text = "nobody has it: it is in no LoadBalancerPool"
	default:
		h.Text = "nobody has it: it is free in LoadBalancerPool " + p.Name
		object := find(s.Pools, func(x *v1alpha1.LoadBalancerPool) bool { return x.Name == p.Name })
		for _, r := range object.Status.Resting {
			if r.Address == h.Address && r.UntilTime != nil && r.UntilTime.After(s.Taken) {
				h.Text = fmt.Sprintf(
					"nobody has it: it was Service %s's, and rests until %s",
					r.Service,
					r.UntilTime.Local().Format(time.TimeOnly),
				)
			}
		}
	}
	return h
}

func reservedFor(s *cluster.State, address netip.Addr) string {
	for _, r := range s.Reservations {
		for _, text := range strings.Split(r.Annotations[v1alpha1.AnnotationReservedAddresses], ",") {
			if a, err := netip.ParseAddr(strings.TrimSpace(text)); err == nil && a == address {
				return r.Namespace + "/" + r.Name
			}
		}
	}
	return ""
}

// Service is a Service of type LoadBalancer.
type Service struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Class     string   `json:"class,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	Pools     []string `json:"pools,omitempty"`
	// Owners are the nodes that answer for the addresses on segments.
	Owners []string `json:"owners,omitempty"`
	// Announced says by what.
	Announced string `json:"announced,omitempty"`
	// Reason and Message say what is wrong; empty: nothing.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Others: it is of another load balancer.
	Others bool `json:"others,omitempty"`
}

// ServicesOf returns the Services of type LoadBalancer of a namespace, "" for all, by namespace and
// name.
func ServicesOf(s *cluster.State, namespace string) []Service {
	snapshot, _ := config.Compile(s.Objects())
	flags := s.Controller()
	classes := service.Classes{Names: flags.Classes, Classless: flags.Classless}
	owners := map[string][]string{}
	for _, o := range s.Owners {
		if !slices.Contains(owners[o.Status.Address], o.Status.NodeName) {
			owners[o.Status.Address] = append(owners[o.Status.Address], o.Status.NodeName)
		}
	}
	labelsOf := map[string]labels.Set{}
	for _, n := range s.Namespaces {
		labelsOf[n.Name] = n.Labels
	}
	var rows []Service
	for _, svc := range s.Services {
		if svc.Spec.Type != corev1.ServiceTypeLoadBalancer || namespace != "" && svc.Namespace != namespace {
			continue
		}
		row := Service{Namespace: svc.Namespace, Name: svc.Name}
		if svc.Spec.LoadBalancerClass != nil {
			row.Class = *svc.Spec.LoadBalancerClass
		}
		for _, a := range service.AddressesIn(svc) {
			row.Addresses = append(row.Addresses, a.String())
			row.Owners = append(row.Owners, owners[a.String()]...)
			if p := snapshot.PoolOf(a); p != nil && !slices.Contains(row.Pools, p.Name) {
				row.Pools = append(row.Pools, p.Name)
			}
		}
		slices.Sort(row.Owners)
		row.Owners = slices.Compact(row.Owners)
		leaves, _ := s.LeavesAlone(svc, labelsOf[svc.Namespace], snapshot)
		row.judge(svc, classes.Selects(svc), leaves)
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b Service) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return rows
}

// judge says how the Service is. selected says that Berth serves its class, left that Berth leaves
// it to another implementation all the same.
func (row *Service) judge(svc *corev1.Service, selected, left bool) {
	switch {
	case !selected:
		row.Others = true
		if len(svc.Status.LoadBalancer.Ingress) == 0 {
			row.Reason, row.Message = "NotServed", fmt.Sprintf(
				"Berth does not serve class %q, and nobody gave it an address",
				row.Class,
			)
		}
		return
	case left:
		row.Others = true
		return
	}
	allocated := meta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ServiceAllocated)
	announced := meta.FindStatusCondition(svc.Status.Conditions, v1alpha1.ServiceAnnounced)
	switch {
	case allocated == nil:
		row.Reason, row.Message = "Pending", "no controller has looked at it yet"
	case allocated.Status != metav1.ConditionTrue:
		row.Reason, row.Message = allocated.Reason, allocated.Message
	case announced == nil:
		row.Reason, row.Message = "Pending", "it is not known yet whether it is announced"
	case announced.Status != metav1.ConditionTrue:
		row.Reason, row.Message = announced.Reason, announced.Message
	default:
		row.Announced = announced.Message
	}
}

func find[T any](all []*T, is func(*T) bool) *T {
	if i := slices.IndexFunc(all, is); i >= 0 {
		return all[i]
	}
	return nil
}

func keys[V any](m map[string]V) iter.Seq[string] { return maps.Keys(m) }

func number(n *int32) int {
	if n == nil {
		return 0
	}
	return int(*n)
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
