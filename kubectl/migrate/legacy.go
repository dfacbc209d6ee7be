package migrate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"
)

// addressPool makes a pool and its advertisements of an AddressPool.
func (m *metallb) addressPool(i item) {
	spec := maps.Clone(i.spec)
	advertisements, _ := spec["bgpAdvertisements"].([]any)
	protocol, _ := spec["protocol"].(string)
	delete(spec, "bgpAdvertisements")
	delete(spec, "protocol")
	i.spec = spec
	m.pools = append(m.pools, i)
	of := func(fields map[string]any) item {
		made := i
		made.spec = maps.Clone(fields)
		made.spec["ipAddressPools"] = []any{i.name}
		return made
	}
	switch protocol {
	case "layer2":
		m.segments = append(m.segments, of(map[string]any{}))
	case "bgp":
		if len(advertisements) == 0 {
			advertisements = []any{map[string]any{}}
		}
		for _, a := range advertisements {
			if fields, is := a.(map[string]any); is {
				m.routes = append(m.routes, of(fields))
			}
		}
	default:
		m.lacks(i.from, "spec.protocol", protocol, "it is neither layer2 nor bgp; write an announcement for the pool")
	}
}

// configMaps reads MetalLB's configuration of before version 0.13: a text in a ConfigMap.
func (m *metallb) configMaps() {
	for _, o := range m.input {
		text, is, _ := unstructured.NestedString(o.Object, "data", "config")
		if o.GetKind() != "ConfigMap" || !is {
			continue
		}
		from := nameIn(o)
		converted, err := yaml.YAMLToJSON([]byte(text))
		config := map[string]any{}
		if err == nil {
			err = utiljson.Unmarshal(converted, &config)
		}
		if err != nil {
			// The error may show the text, and there are passwords in it.
			m.lacks(from, "data.config", "", "it is not YAML that can be read")
			continue
		}
		m.legacy(from, o.GetNamespace(), config)
	}
}

// legacy makes the objects that came after it of the old configuration.
func (m *metallb) legacy(from, namespace string, config map[string]any) {
	each := func(field, kind string, do func(item)) {
		entries, _ := config[field].([]any)
		for n, entry := range entries {
			fields, is := camel(entry).(map[string]any)
			if !is {
				m.lacks(from, fmt.Sprintf("%s[%d]", field, n), "", "it cannot be read: it has no fields")
				continue
			}
			name, _ := fields["name"].(string)
			delete(fields, "name")
			if name == "" {
				name = fmt.Sprintf("peer-%d", n+1)
			}
			do(item{fmt.Sprintf("%s %s[%d]", from, field, n), kind, namespace, name, nil, fields})
		}
	}
	each("bfd-profiles", "BFDProfile", m.bfdProfile)
	each("address-pools", "AddressPool", m.addressPool)
	each("peers", "BGPPeer", func(i item) { m.peers = append(m.peers, i) })
	aliases, _ := config["bgp-communities"].(map[string]any)
	for name, value := range aliases {
		m.aliases[name] = fmt.Sprint(value)
	}
	known := []string{"address-pools", "bfd-profiles", "bgp-communities", "peers"}
	for _, field := range slices.Sorted(maps.Keys(config)) {
		if !slices.Contains(known, field) {
			m.lacks(
				from,
				field,
				"",
				"this command does not know the field; look up what it does, and whether Berth has it",
			)
		}
	}
}

// spelled are the fields whose names are not the old ones without hyphens.
var spelled = map[string]string{
	"my-asn": "myASN", "peer-asn": "peerASN", "router-id": "routerID", "bfd-profile": "bfdProfile",
	"ebgp-multihop": "ebgpMultiHop", "avoid-buggy-ips": "avoidBuggyIPs", "localpref": "localPref",
	"cidr": "addresses",
}

// camel returns a value of the old configuration with the fields as the objects spell them. Labels
// keep their names.
func camel(value any) any {
	switch v := value.(type) {
	case []any:
		var all []any
		for _, each := range v {
			all = append(all, camel(each))
		}
		return all
	case map[string]any:
		fields := map[string]any{}
		for key, each := range v {
			name := spelled[key]
			if name == "" {
				words := strings.Split(key, "-")
				for n := 1; n < len(words); n++ {
					if words[n] != "" {
						words[n] = strings.ToUpper(words[n][:1]) + words[n][1:]
					}
				}
				name = strings.Join(words, "")
			}
			if key != "match-labels" {
				each = camel(each)
			}
			fields[name] = each
		}
		return fields
	}
	return value
}
