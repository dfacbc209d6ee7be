package migrate

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/berth-lb/berth/bgp/community"
	"github.com/berth-lb/berth/config/v1alpha1"
)

// wholeSeconds converts a time. What Berth does not take is reported and left out.
func (c *converter) wholeSeconds(from, field, text string, shortest, longest time.Duration) v1alpha1.Duration {
	if text == "" {
		return ""
	}
	d, err := time.ParseDuration(text)
	if err != nil || d%time.Second != 0 || d < shortest || d > longest {
		c.lacks(from, field, text, fmt.Sprintf(
			"Berth takes whole seconds from %v to %v; it is left out, so the default counts", shortest, longest,
		))
		return ""
	}
	return seconds(int64(d / time.Second))
}

// Limits of Berth's.
const (
	shortestRetry  = time.Second
	longestRetry   = 10 * time.Minute
	mostMultiplier = 50
)

// milliseconds converts a time of BFD; 0 is the default.
func milliseconds(n int64) v1alpha1.Duration {
	if n == 0 {
		return ""
	}
	return v1alpha1.Duration(strconv.FormatInt(n, 10) + "ms")
}

func seconds(n int64) v1alpha1.Duration { return v1alpha1.Duration(strconv.FormatInt(n, 10) + "s") }

// setTimes sets the times of a session. A keepalive time that is not below the hold time is left
// out.
func (c *converter) setTimes(from string, spec *v1alpha1.BGPNeighborSpec, holdField, hold, keepField, keep string) {
	spec.HoldTime = c.wholeSeconds(from, holdField, hold, 3*time.Second, 18*time.Hour)
	spec.KeepaliveTime = c.wholeSeconds(from, keepField, keep, time.Second, 18*time.Hour)
	h, _ := spec.HoldTime.Parse()
	if h == 0 {
		h = 90 * time.Second // Berth's default
	}
	if k, _ := spec.KeepaliveTime.Parse(); k >= h {
		c.lacks(from, keepField, keep, "it is not below the hold time; it is left out, so it is a third of that")
		spec.KeepaliveTime = ""
	}
}

// internal reports whether a session is one within an AS.
func internal(spec v1alpha1.BGPNeighborSpec) bool {
	return spec.RemoteType == v1alpha1.RemoteInternal || spec.RemoteASN == spec.LocalASN
}

// tcpMD5 is authentication by the password in a Secret.
func tcpMD5(secret string) v1alpha1.Authentication {
	return v1alpha1.Authentication{
		Type: v1alpha1.AuthenticationTCPMD5, TCPMD5: v1alpha1.TCPMD5{SecretName: secret},
	}
}

// newSecret puts out a Secret for a password that is written in plain text, and returns its name.
// The report does not have the password.
func (c *converter) newSecret(i item, field, wanted, password string) string {
	name := c.nameFor("Secret", item{from: i.from, name: wanted}, wanted)
	c.addSecret(i.from, name, map[string]any{"stringData": map[string]any{corev1.BasicAuthPasswordKey: password}})
	c.note(i.from, field, "", fmt.Sprintf(
		"it is in Secret %s/%s of the output now, in plain text: keep that out of what others read",
		c.namespace,
		name,
	))
	return name
}

// copySecret returns the name of the Secret in Berth's namespace that takes the place of another
// one, and puts it out if that is among the input.
func (c *converter) copySecret(i item, field, namespace, name string) string {
	key := namespace + "/" + name
	if known := c.secrets[key]; known != "" {
		return known
	}
	for _, o := range c.input {
		if o.GetKind() != "Secret" || o.GetName() != name || namespace != "" && o.GetNamespace() != namespace {
			continue
		}
		data := map[string]any{}
		for _, field := range []string{"data", "stringData"} {
			password, is, _ := unstructured.NestedString(o.Object, field, corev1.BasicAuthPasswordKey)
			if is {
				data[field] = map[string]any{corev1.BasicAuthPasswordKey: password}
			}
		}
		c.secrets[key] = c.nameFor("Secret", i, name)
		c.addSecret(i.from, c.secrets[key], data)
		c.note(i.from, field, name, "it is copied as Secret "+c.namespace+"/"+c.secrets[key])
		return c.secrets[key]
	}
	c.secrets[key] = valid(name) // lint says that it is missing
	return c.secrets[key]
}

func (c *converter) addSecret(from, name string, fields map[string]any) {
	o := &unstructured.Unstructured{Object: fields}
	o.SetAPIVersion("v1")
	o.SetKind("Secret")
	o.SetName(name)
	o.SetNamespace(c.namespace)
	fields["type"] = string(corev1.SecretTypeBasicAuth)
	c.output = append(c.output, output{from, o})
}

// communities converts communities: two numbers, three, a 32-bit number, or a name of Berth's. It
// fails for others: without one of them, a route could go where it is not meant to.
func (c *converter) communities(from, field string, texts []string) (converted []string, ok bool) {
	for _, text := range texts {
		short := strings.TrimPrefix(text, "large:")
		if n, err := strconv.ParseUint(short, 10, 32); err == nil {
			short = fmt.Sprintf("%d:%d", n>>16, n&0xffff)
		}
		parsed, err := community.Parse(short)
		if err != nil {
			c.lacks(from, field, text,
				err.Error()+"; without it routes could go where they should not, so nothing is announced")
			return nil, false
		}
		converted = append(converted, parsed.String())
	}
	return converted, true
}

// aggregation returns the lengths of prefixes that are announced; nil for single addresses.
func (c *converter) aggregation(from, field4, field6 string, v4, v6 int32) *v1alpha1.Aggregation {
	var a v1alpha1.Aggregation
	for _, f := range []struct {
		field            string
		length, min, max int32
		into             *int32
	}{{field4, v4, 8, 32, &a.IPv4PrefixLength}, {field6, v6, 16, 128, &a.IPv6PrefixLength}} {
		switch {
		case f.length == 0 || f.length == f.max:
		case f.length < f.min || f.length > f.max:
			c.lacks(from, f.field, f.length, fmt.Sprintf(
				"Berth announces prefixes of /%d and longer; each address is announced alone", f.min,
			))
		default:
			*f.into = f.length
		}
	}
	if a == (v1alpha1.Aggregation{}) {
		return nil
	}
	return &a
}

// addSpeaker puts out the router ID of a node.
func (c *converter) addSpeaker(i item, node, routerID string) {
	if c.used.Has("Speaker " + node) {
		c.lacks(i.from, "routerID", routerID, "a node has one router ID, and this one has another already")
		return
	}
	o := &v1alpha1.Speaker{Spec: v1alpha1.SpeakerSpec{BGP: v1alpha1.SpeakerBGP{RouterID: routerID}}}
	o.Name = node
	c.used.Insert("Speaker " + node)
	c.add(i.from, "Speaker", o)
}
