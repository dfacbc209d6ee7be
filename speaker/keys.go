package speaker

import (
	"bytes"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/l2"
	"github.com/berth-lb/berth/speaker/deadnodes/notice"
	"github.com/berth-lb/berth/speaker/steer"
)

// keysOf returns the keys of hellos that a Secret holds, without those that are too
// short, and whether there is one to sign with. During a rotation there are two:
// speakers sign with the old one until all accept the new one, and accept the old
// one until all sign with the new one.
func keysOf(secret *corev1.Secret) (l2.Keys, bool) {
	good := func(name string) []byte {
		if k := secret.Data[name]; len(k) >= v1alpha1.ShortestHelloKey {
			return k
		}
		return nil
	}
	keys := l2.Keys{Sign: good(v1alpha1.HelloKey)}
	for _, name := range []string{v1alpha1.NextHelloKey, v1alpha1.PreviousHelloKey} {
		if k := good(name); k != nil {
			keys.Accept = append(keys.Accept, k)
		}
	}
	return keys, keys.Sign != nil
}

// fingerprints returns the fingerprint of the key that signs, and those of all that
// are accepted, each once, ascending.
func fingerprints(keys l2.Keys) (signing string, accepted []string) {
	if len(keys.Sign) == 0 {
		return "", nil
	}
	signing = v1alpha1.Fingerprint(keys.Sign)
	accepted = []string{signing}
	for _, k := range keys.Accept {
		accepted = append(accepted, v1alpha1.Fingerprint(k))
	}
	slices.Sort(accepted)
	return signing, slices.Compact(accepted)
}

// reviewKey reads the keys of hellos from their Secret. If the Secret is gone, or has no key to
// sign with, the speaker keeps the keys it has.
func (p *planner) reviewKey() {
	o, _, err := p.sources.secret.GetStore().GetByKey(p.Namespace + "/" + v1alpha1.HelloSecret)
	secret, ok := o.(*corev1.Secret)
	if err == nil && ok {
		p.takeRecordKey(secret.Data[v1alpha1.RecordKey])
		if keys, good := keysOf(secret); good {
			p.keyed = true
			p.l2.SetKeys(keys)
			if p.notices != nil {
				p.notices.SetKeys(notice.Keys(keys))
			}
			p.reporter.setKeys(fingerprints(keys))
			p.steering.SetEnabled(secret.Annotations[v1alpha1.AnnotationSteering] != v1alpha1.SteeringDisabled)
			p.reporter.complain(reasonNoHelloKey, "", "")
			return
		}
	}
	consequence := "without it nothing is announced by ARP and NDP"
	if p.keyed {
		consequence = "the speaker goes on with the key it has"
	}
	p.reporter.complain(
		reasonNoHelloKey,
		"",
		fmt.Sprintf(
			"Secret %s/%s is not there or its data.%s is shorter than %d bytes; %s, and the controller makes a good one as soon as it runs",
			p.Namespace,
			v1alpha1.HelloSecret,
			v1alpha1.HelloKey,
			v1alpha1.ShortestHelloKey,
			consequence,
		),
	)
}

// takeRecordKey sets the key with which the controller signs records. This process still accepts
// records that the former key signed, since the controller takes a while to sign them again.
func (p *planner) takeRecordKey(key []byte) {
	if len(key) < v1alpha1.ShortestHelloKey || len(p.recordKeys) > 0 && bytes.Equal(p.recordKeys[0], key) {
		return
	}
	p.steering.SetSeed(steer.Seed(key))
	p.recordKeys = append([][]byte{key}, p.recordKeys[:min(len(p.recordKeys), 1)]...)
	for _, service := range p.sources.service.GetStore().ListKeys() {
		p.tasks.Add(task{kind: serviceChanged, service: service})
	}
}
