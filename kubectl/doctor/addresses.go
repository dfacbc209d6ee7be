package doctor

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go4.org/netipx"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/berth-lb/berth/config"
	"github.com/berth-lb/berth/config/inuse"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/controller/service"
)

// Proposal is LoadBalancerPools that are to be.
type Proposal struct{ Pools []*v1alpha1.LoadBalancerPool }

// ProposeRanges proposes a pool of these ranges: CIDRs, addresses, or two addresses with a hyphen
// between them.
func ProposeRanges(ranges []string) *Proposal {
	pool := &v1alpha1.LoadBalancerPool{ObjectMeta: metav1.ObjectMeta{Name: "proposed"}}
	pool.Spec.Scopes = []v1alpha1.PoolScope{
		{NamespaceSelector: &v1alpha1.Selector{}, ServiceSelector: &v1alpha1.Selector{}},
	}
	for _, r := range ranges {
		pool.Spec.Addresses = append(pool.Spec.Addresses, v1alpha1.AddressRange(strings.TrimSpace(r)))
	}
	return &Proposal{Pools: []*v1alpha1.LoadBalancerPool{pool}}
}

// ProposeYAML proposes the LoadBalancerPools of a file of YAML. It skips other kinds.
func ProposeYAML(file io.Reader) (*Proposal, error) {
	d := yaml.NewYAMLOrJSONDecoder(file, 4096)
	p := &Proposal{}
	for {
		var u unstructured.Unstructured
		err := d.Decode(&u.Object)
		switch {
		case errors.Is(err, io.EOF) && len(p.Pools) == 0:
			return nil, errors.New("there is no LoadBalancerPool in it")
		case errors.Is(err, io.EOF):
			return p, nil
		case err != nil:
			return nil, err
		case u.GroupVersionKind().Group != berthGroup || u.GetKind() != "LoadBalancerPool":
			continue
		}
		pool := &v1alpha1.LoadBalancerPool{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, pool); err != nil {
			return nil, fmt.Errorf("LoadBalancerPool %s: %w", u.GetName(), err)
		}
		p.Pools = append(p.Pools, pool)
	}
}

// compile returns the ranges of the pools that are looked at, by name of the pool, and the whole
// configuration with them.
func (e *examination) compile(proposed *Proposal) (*config.Snapshot, map[config.Key][]config.Problem, []string) {
	objects := e.Objects()
	var names []string
	if proposed == nil {
		for _, p := range objects.Pools {
			names = append(names, p.Name)
		}
	} else {
		objects.Pools = slices.Clone(objects.Pools)
		for _, p := range proposed.Pools {
			names = append(names, p.Name)
			i := slices.IndexFunc(objects.Pools, func(x *v1alpha1.LoadBalancerPool) bool { return x.Name == p.Name })
			p = p.DeepCopy()
			if i >= 0 {
				p.CreationTimestamp = objects.Pools[i].CreationTimestamp
				objects.Pools[i] = p
				continue
			}
			p.CreationTimestamp = metav1.NewTime(e.Taken) // the youngest: it gives way to those that are
			objects.Pools = append(objects.Pools, p)
		}
	}
	snapshot, problems := config.Compile(objects)
	slices.Sort(names)
	return snapshot, problems, names
}

// addresses looks at the addresses of pools that are, or of those that are to be.
func (e *examination) addresses(proposed *Proposal) {
	snapshot, problems, names := e.compile(proposed)
	uses := e.Uses(snapshot).All()
	for _, name := range names {
		object := "LoadBalancerPool " + name
		for _, p := range problems[config.Key{Kind: "LoadBalancerPool", Name: name}] {
			if !p.Harmless {
				e.find("pool-invalid", object, "%s", p.Message)
			}
		}
		pool := snapshot.Pool(name)
		if pool == nil {
			continue
		}
		for _, text := range usesOf(pool, uses) {
			e.find("pool-address-in-use", object, "%s", text)
		}
		e.addressesOfServices(object, pool, snapshot)
	}
}

// usesOf says which addresses of the pool are in use, but for those that no host can have.
func usesOf(pool *config.Pool, uses []inuse.Use) []string {
	var texts []string
	for _, u := range uses {
		overlaps := slices.ContainsFunc(pool.Ranges, func(r netipx.IPRange) bool { return r.Overlaps(u.IPRange) })
		if !overlaps || u.Edge {
			continue
		}
		if u.From() == u.To() {
			texts = append(texts, fmt.Sprintf("%s is %s", u.From(), u.By))
		} else {
			texts = append(texts, fmt.Sprintf("it overlaps %s, which is %s", u.IPRange, u.By))
		}
	}
	return texts
}

func (e *examination) addressesOfServices(object string, pool *config.Pool, snapshot *config.Snapshot) {
	flags := e.Controller()
	classes := service.Classes{Names: flags.Classes, Classless: flags.Classless}
	for _, svc := range e.Services {
		name := "Service " + svc.Namespace + "/" + svc.Name
		for _, a := range externalIPs(svc) {
			if snapshot.PoolOf(a) == pool {
				e.find(
					"pool-external-ip",
					object,
					"%s is in spec.externalIPs of %s, which Berth does not look at",
					a,
					name,
				)
			}
		}
		if leaves, _ := e.LeavesAlone(svc, e.labelsOf(svc.Namespace), snapshot); classes.Selects(svc) && !leaves {
			continue
		}
		for _, a := range service.AddressesIn(svc) {
			if snapshot.PoolOf(a) == pool {
				e.find(
					"pool-address-of-service",
					object,
					"%s is the address of %s, which %s gave it",
					a,
					name,
					service.WriterOf(svc),
				)
			}
		}
	}
}
