//go:build linux

// Package stage holds the fixtures of end-to-end tests: in a lab it installs Berth from its
// manifests, configures pools and announcements, deploys an application, and runs clients that send
// requests to it.
package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/berth-lb/berth/config/client"
	"github.com/berth-lb/berth/config/v1alpha1"
	"github.com/berth-lb/berth/e2e/lab"
)

// Namespace is the namespace of Berth's own objects.
const Namespace = "berth-system"

// The pools that Configure creates.
const (
	RackPool   = "rack"   // announced on the segment
	RoutedPool = "routed" // announced by BGP
)

// Router has the router as BGPNeighbor "tor", and announces RoutedPool to it.
var Router = fmt.Sprintf(`
apiVersion: berth.dev/v1alpha1
kind: BGPNeighbor
metadata: {name: tor}
spec: {localASN: %d, remoteASN: %d, address: 172.30.0.1, holdTime: 3s, connectRetryTime: 1s, nodeSelector: {}}
---
apiVersion: berth.dev/v1alpha1
kind: RouteAnnouncement
metadata: {name: tor}
spec: {poolNames: [routed], neighborNames: [tor], nodeSelector: {}, serviceSelector: {}}
`, lab.NodeAS, lab.RouterAS)

// Stage is a lab and clients of its API server.
type Stage struct {
	*lab.Lab
	Kubernetes kubernetes.Interface
	Berth      *client.Interface
	DualStack  bool
}

// New returns a stage on a lab that is up.
func New(l *lab.Lab, dualStack bool) (*Stage, error) {
	config, err := l.RESTConfig()
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 500, 1000
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client of the lab: %w", err)
	}
	own, err := client.New(config)
	if err != nil {
		return nil, err
	}
	return &Stage{Lab: l, Kubernetes: set, Berth: own, DualStack: dualStack}, nil
}

// Manifest returns the path of manifests/berth.yaml.
func Manifest() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		file := filepath.Join(dir, "manifests", "berth.yaml")
		if _, err := os.Stat(file); err == nil {
			return file, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("manifests/berth.yaml is in no folder from here upwards: run `make generate`")
		}
	}
}

// Install applies manifests/berth.yaml, as a user does, and waits until all of Berth is ready. So
// that rollouts take less time, a speaker need not have been ready for a while.
func (s *Stage) Install(ctx context.Context) error {
	file, err := Manifest()
	if err != nil {
		return err
	}
	if _, err := s.Kubectl(ctx, "", "apply", "-f", file); err != nil {
		return fmt.Errorf("install Berth: %w", err)
	}
	if err := s.ReadyAtOnce(ctx); err != nil {
		return fmt.Errorf("install Berth: %w", err)
	}
	return s.AwaitBerth(ctx)
}

// ReadyAtOnce has speakers count as available as soon as they are ready.
func (s *Stage) ReadyAtOnce(ctx context.Context) error {
	_, err := s.Kubectl(
		ctx, "", "-n", Namespace, "patch", "daemonset", "berth-speaker", "-p", `{"spec":{"minReadySeconds":0}}`,
	)
	return err
}

// Leader returns the name of the Pod of the controller that leads.
func (s *Stage) Leader(ctx context.Context) (string, error) {
	lease, err := s.Kubernetes.CoordinationV1().Leases(Namespace).Get(ctx, "berth-controller", metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		return "", errors.New("nobody leads")
	}
	return *lease.Spec.HolderIdentity, nil
}

// AwaitBerth waits until the controllers and all speakers are ready.
func (s *Stage) AwaitBerth(ctx context.Context) error {
	for _, what := range []string{"deployment/berth-controller", "daemonset/berth-speaker"} {
		if _, err := s.Kubectl(ctx, "", "-n", Namespace, "rollout", "status", what, "--timeout=90s"); err != nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
	}
	return nil
}

// Uninstall deletes what Install applied, and waits until it is gone.
func (s *Stage) Uninstall(ctx context.Context) error {
	file, err := Manifest()
	if err != nil {
		return err
	}
	if _, err := s.Kubectl(ctx, "", "delete", "--ignore-not-found", "--timeout=60s", "-f", file); err != nil {
		return fmt.Errorf("uninstall Berth: %w", err)
	}
	return nil
}

// Apply applies objects written as YAML.
func (s *Stage) Apply(ctx context.Context, yaml string) error {
	_, err := s.Kubectl(ctx, yaml, "apply", "-f", "-")
	return err
}

// Configure makes a pool on the segment with its SegmentAnnouncement, a pool for BGP with its
// RouteAnnouncement, and the router as BGPNeighbor "tor".
func (s *Stage) Configure(ctx context.Context) error {
	return s.Apply(ctx, `
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: rack}
spec: {addresses: [172.30.0.200-172.30.0.250, "fd00:30::200-fd00:30::2ff"], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
apiVersion: berth.dev/v1alpha1
kind: SegmentAnnouncement
metadata: {name: rack}
spec: {poolNames: [rack], nodeSelector: {}, serviceSelector: {}}
---
apiVersion: berth.dev/v1alpha1
kind: LoadBalancerPool
metadata: {name: routed}
spec: {allocation: OnRequest, addresses: [198.51.100.0/24, "2001:db8:100::/64"], scopes: [{namespaceSelector: {}, serviceSelector: {}}]}
---
`+Router)
}

// App is an application of echo servers.
type App struct {
	Namespace, Name string
	// Group is the Pods' label "group", for Services over several applications.
	Group string
	// Nodes are the nodes to run on; empty: all.
	Nodes []string
	// PodsPerNode is the number of Pods on each node; 0 means 1.
	PodsPerNode int
	// UnreadyAfter is how many readiness probes, a second apart, must fail until a Pod is unready; 0
	// means 1.
	UnreadyAfter int
}

// Deploy runs the application and waits until its Pods are ready.
func (s *Stage) Deploy(ctx context.Context, app App) error {
	nodes := app.Nodes
	if len(nodes) == 0 {
		nodes = s.Nodes()
	}
	err := s.Apply(ctx, fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  replicas: %[3]d
  selector: {matchLabels: {app: %[2]s}}
  strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}
  template:
    metadata: {labels: {app: %[2]s, group: %[5]q}}
    spec:
      terminationGracePeriodSeconds: 10
      tolerations:
        - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 300}
        - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 300}
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
              - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [%[4]s]}]
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: %[2]s}}}
      containers:
        - name: echo
          image: berth.dev/echo:1
          args: [-drain=3s]
          ports: [{name: http, containerPort: 8080}, {name: line, containerPort: 7000}, {name: line-udp, containerPort: 7000, protocol: UDP}]
          readinessProbe: {httpGet: {path: /ready, port: http}, periodSeconds: 1, failureThreshold: %[6]d}
          env:
            - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
            - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
`, app.Namespace, app.Name, len(nodes)*max(1, app.PodsPerNode), strings.Join(nodes, ", "), app.Group,
		max(1, app.UnreadyAfter)))
	if err != nil {
		return fmt.Errorf("deploy %s: %w", app.Name, err)
	}
	within := time.Minute + time.Duration(app.PodsPerNode)*time.Second
	if _, err := s.Kubectl(
		ctx, "", "-n", app.Namespace, "rollout", "status", "deployment/"+app.Name, "--timeout="+within.String(),
	); err != nil {
		return fmt.Errorf("deploy %s: %w", app.Name, err)
	}
	return nil
}

// Expose returns a Service of type LoadBalancer for the application. The caller may change it, and
// passes it to Create.
func (s *Stage) Expose(app App, name string) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: app.Namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Type:     corev1.ServiceTypeLoadBalancer,
			Selector: map[string]string{"app": app.Name},
			Ports: []corev1.ServicePort{
				port("http", corev1.ProtocolTCP, 80, "http"),
				port("line", corev1.ProtocolTCP, 7000, "line"),
				port("line-udp", corev1.ProtocolUDP, 7000, "line-udp"),
			},
		},
	}
	if s.DualStack {
		policy := corev1.IPFamilyPolicyRequireDualStack
		svc.Spec.IPFamilyPolicy = &policy
	}
	return svc
}

// Create creates the Service and returns it as soon as it has addresses.
func (s *Stage) Create(ctx context.Context, svc *corev1.Service) (*corev1.Service, error) {
	if _, err := s.Kubernetes.CoreV1().Services(svc.Namespace).Create(ctx, svc, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create Service %s: %w", svc.Name, err)
	}
	var found *corev1.Service
	err := Eventually(ctx, 10*time.Second, func(ctx context.Context) error {
		var err error
		found, err = s.Kubernetes.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{})
		if err == nil && len(found.Status.LoadBalancer.Ingress) == 0 {
			err = fmt.Errorf("no address for Service %s: %v", svc.Name, found.Status.Conditions)
		}
		return err
	})
	return found, err
}

// AwaitSpeakers waits until every speaker announces and, where the lab has a router that speaks
// BGP, has a session with it.
func (s *Stage) AwaitSpeakers(ctx context.Context, sessions bool) error {
	return Eventually(ctx, 30*time.Second, func(ctx context.Context) error {
		for _, node := range s.Nodes() {
			status, err := s.Berth.Speakers.Get(ctx, node, metav1.GetOptions{})
			switch {
			case err != nil:
				return err
			case sessions && (len(
				status.Status.Sessions,
			) == 0 || status.Status.Sessions[0].State != v1alpha1.SessionEstablished):
				return fmt.Errorf("speaker of %s has no session: %+v", node, status.Status.Sessions)
			}
			if state, message := status.Status.State(); state != v1alpha1.SpeakerAnnouncing {
				return fmt.Errorf("speaker of %s is %s: %s", node, state, message)
			}
		}
		return nil
	})
}

// Eventually checks every 20 ms whether a condition holds, for at most patience. The returned error
// contains the condition's last error.
func Eventually(ctx context.Context, patience time.Duration, condition func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := condition(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", patience, last)
		case <-tick.C:
		}
	}
}
