package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/berth-lb/berth/controller/service"
	"github.com/berth-lb/berth/internal/trace"
	"github.com/berth-lb/berth/kubectl/cluster"
)

const (
	// usualLast is how many questions and events of each node are shown.
	usualLast = 20
	// askAtOnce is how many speakers are asked at the same time.
	askAtOnce = 16
	// speakerWithin bounds how long one may take to answer.
	speakerWithin = 15 * time.Second
)

// traced is an entry, and the node whose speaker's pod remembers it.
type traced struct {
	By string `json:"by"`
	trace.Entry
}

func traceCommand(c *common) *cobra.Command {
	var out output
	var last int
	var node string
	cmd := &cobra.Command{
		Use:   "trace SERVICE",
		Short: "Show who asked for a Service's addresses last, who answered, and what moved them",
		Long: `Show who asked for a Service's addresses last, who answered, and what moved them.

Each speaker's pod remembers the last 2048 questions by ARP and NDP, and the last 2048
events: which node answers from when on and why, conflicts, which nodes and BGP sessions
came and went. This command reads that by running berth trace in the pods, which needs
the right to create pods/exec in Berth's namespace. Times are by the clocks of the nodes.`,
		Example: `  # Does the question of this client arrive, and who answers?
  kubectl berth trace web -n shop

  # All that one node remembers
  kubectl berth trace web -n shop --node n1 --last 0`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: c.complete(balanced),
		RunE: func(cmd *cobra.Command, args []string) error {
			if last < 0 {
				return fmt.Errorf("--last %d: write how many, or 0 for all", last)
			}
			ctx := cmd.Context()
			to, err := c.clients()
			if err != nil {
				return err
			}
			addresses, err := c.addressesOf(ctx, to, args[0])
			if err != nil {
				return err
			}
			all := []traced{}
			asked := append([]string{"trace", "--last", strconv.Itoa(last)}, addresses...)
			err = c.askSpeakers(ctx, to, node, asked, func(by string, said io.Reader) error {
				entries, err := trace.Decode(said)
				for _, e := range entries {
					all = append(all, traced{by, e})
				}
				return err
			})
			if err != nil {
				return err
			}
			slices.SortStableFunc(all, func(a, b traced) int { return a.Time.Compare(b.Time) })
			return out.print(c.Out, all, func(w io.Writer, _ bool) {
				fmt.Fprintln(w, "TIME\tNODE\tINTERFACE\tADDRESS\tWHAT")
				for _, e := range all {
					at := "-"
					if e.Address.IsValid() {
						at = e.Address.String()
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n",
						e.Time.Local().Format("15:04:05.000"), e.By, dash(e.Interface), at, happened(e))
				}
				if len(all) == 0 {
					fmt.Fprintln(w, "Nothing is remembered: nobody asked since the speakers' pods started.")
				}
			})
		},
	}
	out.register(cmd)
	cmd.Flags().
		IntVar(&last, "last", usualLast, "how many questions, and how many events, of each process of a node; 0: all")
	cmd.Flags().StringVar(&node, "node", "", "only this node's")
	_ = cmd.RegisterFlagCompletionFunc("node", c.complete(nodes))
	return cmd
}

// addressesOf returns flags with the addresses of a Service.
func (c *common) addressesOf(ctx context.Context, to *cluster.Clients, name string) (flags []string, err error) {
	namespace, err := c.currentNamespace()
	if err != nil {
		return nil, err
	}
	name = strings.TrimPrefix(strings.TrimPrefix(name, "service/"), "svc/")
	svc, err := to.Kubernetes.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, cluster.Right(err, "get", "", "services")
	}
	for _, a := range service.AddressesIn(svc) {
		flags = append(flags, "--address", a.String())
	}
	if len(flags) == 0 {
		return nil, fmt.Errorf(
			"there is no address of Service %s: kubectl berth why %s -n %s says why",
			name,
			name,
			namespace,
		)
	}
	return flags, nil
}

// askSpeakers runs a command of berth in the speakers' pods, of one node if it is not empty, and
// hands over what each writes, one at a time, with its node. Who does not answer is named on
// ErrOut. It fails if nobody answers.
func (c *common) askSpeakers(
	ctx context.Context,
	to *cluster.Clients,
	node string,
	command []string,
	hear func(by string, said io.Reader) error,
) error {
	pods, err := to.Kubernetes.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/name=berth," + cluster.ComponentLabel + "=speaker",
	})
	if err != nil {
		return cluster.Right(err, "list", "", "pods")
	}
	var mu sync.Mutex // held while one is heard
	failed := map[string]error{}
	asked := 0
	var work errgroup.Group
	work.SetLimit(askAtOnce)
	for i := range pods.Items {
		pod := &pods.Items[i]
		if node != "" && pod.Spec.NodeName != node {
			continue
		}
		asked++
		work.Go(func() error {
			said, err := askSpeaker(ctx, to, pod, command)
			mu.Lock()
			defer mu.Unlock()
			if err = errors.Join(err, hear(pod.Spec.NodeName, said)); err != nil {
				failed[pod.Name] = err
			}
			return nil
		})
	}
	_ = work.Wait() // they return no error
	switch {
	case asked == 0 && node != "":
		return fmt.Errorf("--node %s: no speaker runs there", node)
	case asked == 0:
		return fmt.Errorf("no speaker runs in namespace %s; name Berth's with --berth-namespace", c.namespace)
	}
	for name, err := range failed {
		if len(failed) == asked {
			return fmt.Errorf("speaker %s: %w", name, cluster.Right(err, "create", "", "pods/exec"))
		}
		fmt.Fprintf(c.ErrOut, "note: speaker %s does not say: %v\n", name, err)
	}
	return nil
}

// askSpeaker runs a command of berth in a speaker's pod, and returns what it wrote.
func askSpeaker(ctx context.Context, to *cluster.Clients, pod *corev1.Pod, command []string) (io.Reader, error) {
	ctx, cancel := context.WithTimeout(ctx, speakerWithin)
	defer cancel()
	url := to.Kubernetes.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).
		SubResource("exec").VersionedParams(&corev1.PodExecOptions{
		Container: "speaker", Command: append([]string{"/berth"}, command...), Stdout: true, Stderr: true,
	}, scheme.ParameterCodec).URL()
	var said, failed bytes.Buffer
	run, err := remotecommand.NewSPDYExecutor(to.Config, "POST", url)
	if err != nil {
		return &said, err
	}
	err = run.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &said, Stderr: &failed})
	switch text := strings.TrimSpace(failed.String()); {
	case err == nil:
	case text != "":
		err = errors.New(text)
	case strings.Contains(err.Error(), "is forbidden: "): // the client keeps only the text of the answer
		err = apierrors.NewForbidden(corev1.Resource("pods/exec"), pod.Name, err)
	}
	return &said, err
}

// happened says in words what an entry is about.
func happened(e traced) string {
	var text strings.Builder
	switch e.What {
	case trace.Answered, trace.Ignored:
		from := "a host without an address"
		if e.From.IsValid() && !e.From.IsUnspecified() {
			from = e.From.String()
		}
		fmt.Fprintf(&text, "%s (%s) asks who has it: %s", from, e.MAC, e.What)
		return text.String()
	case trace.Session:
		fmt.Fprintf(&text, "session with %s", e.Node)
		if e.From.IsValid() {
			fmt.Fprintf(&text, " (%s)", e.From)
		}
	default:
		text.WriteString(string(e.What))
		for _, part := range []string{e.Node, macOf(e.MAC)} {
			if part != "" && part != e.By {
				text.WriteString(" " + part)
			}
		}
	}
	if e.Detail != "" {
		text.WriteString(": " + e.Detail)
	}
	return text.String()
}

func macOf(m trace.MAC) string {
	if m == (trace.MAC{}) {
		return ""
	}
	return m.String()
}
