package digest

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-lb/berth/config/candidate"
)

const (
	// Name is that of the ConfigMap with the heartbeat, and begins those of the others.
	Name = "berth-nodes"
	// Every is how often the controller writes the heartbeat.
	Every = 20 * time.Second
	// Patience is how long speakers wait for a new one.
	Patience = 3 * Every
	// Format is raised when speakers need to read more of a Node than before. Those of a higher one
	// do not rely on what a controller of a lower one published.
	Format = 1

	// shares is how many ConfigMaps the Nodes are spread over: with one, each change of a Node would
	// send all others along. A version that has another number takes over from one that has this.
	shares = 64

	keyRenewed = "renewed"
	keyFormat  = "format"
	keyShares  = "shares"
)

// Labels are those of all of these ConfigMaps.
func Labels() map[string]string {
	return map[string]string{"app.kubernetes.io/part-of": "berth", "app.kubernetes.io/component": "nodes"}
}

// Selector selects them.
func Selector() string { return labels.Set(Labels()).String() }

// Share returns the name of the ConfigMap that a Node is in.
func Share(node string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(node)) // it has no errors
	return shareName(int(h.Sum32() % shares))
}

// Shares returns the names of the ConfigMaps that Nodes are in.
func Shares() []string {
	names := make([]string, shares)
	for i := range names {
		names[i] = shareName(i)
	}
	return names
}

func shareName(i int) string { return fmt.Sprintf("%s-%02d", Name, i) }

// IsShare reports whether a ConfigMap of that name has Nodes, of this version or another.
func IsShare(name string) bool { return strings.HasPrefix(name, Name+"-") }

// Heartbeat says that the other ConfigMaps have what the API had of Nodes some seconds before it
// was written.
type Heartbeat struct {
	Renewed string   // the time, which is compared with the one before
	Format  int      // that of Encode
	Shares  []string // the names of the other ConfigMaps
}

// NewHeartbeat returns the heartbeat of that time.
func NewHeartbeat(now time.Time, shares []string) Heartbeat {
	return Heartbeat{Renewed: now.UTC().Format(time.RFC3339Nano), Format: Format, Shares: shares}
}

// Data returns what is in the ConfigMap.
func (h Heartbeat) Data() map[string]string {
	return map[string]string{
		keyRenewed: h.Renewed, keyFormat: strconv.Itoa(h.Format), keyShares: strings.Join(h.Shares, " "),
	}
}

// HeartbeatIn returns the heartbeat in the data of the ConfigMap.
func HeartbeatIn(data map[string]string) (Heartbeat, error) {
	format, err := strconv.Atoi(data[keyFormat])
	if err != nil {
		return Heartbeat{}, fmt.Errorf("ConfigMap %s: %s is %q, not a number", Name, keyFormat, data[keyFormat])
	}
	if data[keyRenewed] == "" {
		return Heartbeat{}, fmt.Errorf("ConfigMap %s: %s is missing", Name, keyRenewed)
	}
	return Heartbeat{Renewed: data[keyRenewed], Format: format, Shares: strings.Fields(data[keyShares])}, nil
}

// Age returns how old the heartbeat is by this node's clock; false: that cannot be told, since the
// clocks differ or the time is none.
func (h Heartbeat) Age(now time.Time) (time.Duration, bool) {
	at, err := time.Parse(time.RFC3339Nano, h.Renewed)
	if err != nil || at.After(now) {
		return 0, false
	}
	return now.Sub(at), true
}

// line is the digest of a Node. Its fields are those of the Node that candidate.SlimNode keeps.
type line struct {
	UID        types.UID                                           `json:"uid"`
	Deleted    *metav1.Time                                        `json:"deleted,omitempty"`
	Labels     map[string]string                                   `json:"labels,omitempty"`
	Addresses  []corev1.NodeAddress                                `json:"addresses,omitempty"`
	PodCIDRs   []string                                            `json:"podCIDRs,omitempty"`
	Taints     []corev1.Taint                                      `json:"taints,omitempty"`
	Conditions map[corev1.NodeConditionType]corev1.ConditionStatus `json:"conditions,omitempty"`
}

// Encode returns the digest of a Node. It is the same for two versions of a Node that do not differ
// in what candidate.SlimNode keeps, but for their resource versions.
func Encode(node *corev1.Node) (string, error) {
	slim := candidate.SlimNode(node)
	l := line{
		UID: slim.UID, Deleted: slim.DeletionTimestamp, Labels: slim.Labels, Addresses: slim.Status.Addresses,
		PodCIDRs: slim.Spec.PodCIDRs, Taints: slim.Spec.Taints,
		Conditions: map[corev1.NodeConditionType]corev1.ConditionStatus{},
	}
	for _, c := range slim.Status.Conditions {
		l.Conditions[c.Type] = c.Status
	}
	text, err := json.Marshal(l)
	if err != nil {
		return "", fmt.Errorf("digest of Node %s: %w", node.Name, err)
	}
	return string(text), nil
}

// Decode returns the Node of that name that Encode was given, without its resource version and as
// far as candidate.SlimNode keeps it.
func Decode(name, text string) (*corev1.Node, error) {
	var l line
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return nil, fmt.Errorf("digest of Node %s: %w", name, err)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: name, UID: l.UID, DeletionTimestamp: l.Deleted, Labels: l.Labels,
	}}
	node.Status.Addresses, node.Spec.PodCIDRs, node.Spec.Taints = l.Addresses, l.PodCIDRs, l.Taints
	for _, kind := range slices.Sorted(maps.Keys(l.Conditions)) {
		node.Status.Conditions = append(
			node.Status.Conditions,
			corev1.NodeCondition{Type: kind, Status: l.Conditions[kind]},
		)
	}
	return candidate.SlimNode(node), nil
}
