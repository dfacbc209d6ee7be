package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/kubectl/lint"
	"github.com/berth-lb/berth/kubectl/migrate"
	"github.com/berth-lb/berth/kubectl/migrate/steps"
)

func migrateCommand(c *common) *cobra.Command {
	var out output
	var source string
	var live migration
	cmd := &cobra.Command{
		Use:   "migrate --from SOURCE (FILE... | --plan | --next | --back)",
		Short: "Convert the configuration of another load balancer, or move a cluster node by node",
		Long: `Convert the configuration of another load balancer, without a cluster, or move a cluster
from MetalLB to Berth and back, node by node (--plan, --next, --back).

Berth's objects are printed as YAML, with the Secrets that they name, and the Services
whose annotations or classes have to change. A report on the standard error says what
became of each object and field, and what to do about what has no counterpart; -o json
and -o yaml are its formats. Nothing is printed that "kubectl berth lint" calls an error.

A folder stands for all *.yaml, *.yml and *.json in it, - for the standard input. What
names each other belongs into one call: pools with their announcements and Services.

From metallb it reads the objects of metallb.io and the ConfigMap of old versions; from
kube-vip the ConfigMap of the cloud provider and the Pods' environment; from cilium the
pools, L2 policies and BGP; from purelb ServiceGroups and LBNodeAgents; from external-ips
Services with spec.externalIPs, which Kubernetes has deprecated.

The exit code is 0 if all is converted, 1 if something has no counterpart, 2 if nothing
could be converted.

In a cluster, --plan prints the steps from MetalLB to Berth: which are done, and the
commands that do the next and undo the last (-o wide; -o json and -o yaml have all). --next does
the next step and waits until it is done, --back undoes the last one. Where the cluster is
on that way is read from it each time: after an interruption run the command again. What
cannot be done safely is refused before anything changes, and said by --plan, too. The exit
code of --plan is 1 while there are steps to do.`,
		Example: `  # What MetalLB is told, from a cluster
  kubectl get -n metallb-system -o yaml ipaddresspools.metallb.io,l2advertisements.metallb.io \
    | kubectl berth migrate --from metallb - > berth.yaml

  # What is in Git, the Services too, and the report for a program
  kubectl berth migrate --from cilium -o json deploy/ > berth.yaml 2> report.json

  # Move a cluster from MetalLB: look, do a step, go back a step
  kubectl berth migrate --from metallb --plan
  kubectl berth migrate --from metallb --next
  kubectl berth migrate --from metallb --back

  # Services with external addresses
  kubectl get services,nodes -A -o yaml | kubectl berth migrate --from external-ips - > berth.yaml`,
		Args: live.args,
		RunE: func(cmd *cobra.Command, args []string) error {
			if live.asked() {
				return live.run(cmd.Context(), c, &out, source)
			}
			files, err := readFiles(c.In, args)
			if err != nil {
				return err
			}
			var objects []*unstructured.Unstructured
			for _, file := range files {
				read, err := migrate.Read(file)
				if err != nil {
					return err
				}
				objects = append(objects, read...)
			}
			schemas, err := lint.NewSchemas()
			if err != nil {
				return err
			}
			result, err := migrate.From(cmd.Context(), schemas, source, c.namespace, objects)
			if err != nil {
				return err
			}
			if err := printObjects(c.Out, result.Objects); err != nil {
				return err
			}
			err = out.print(c.ErrOut, result, func(w io.Writer, _ bool) {
				for _, l := range result.Report {
					fmt.Fprintf(w, "%s\t%s\t%s\n", l.Object, l.Outcome, l.Text())
				}
			})
			if err == nil && !result.Complete() {
				return errFinds
			}
			return err
		},
	}
	out.register(cmd)
	live.register(cmd)
	cmd.Flags().StringVar(&source, "from", "", "what to convert from: "+strings.Join(migrate.Sources(), ", "))
	_ = cmd.MarkFlagRequired("from")
	_ = cmd.RegisterFlagCompletionFunc(
		"from", cobra.FixedCompletions(migrate.Sources(), cobra.ShellCompDirectiveNoFileComp),
	)
	return cmd
}

// migration are the flags by which a cluster is moved.
type migration struct {
	plan, next, back bool
	managed          bool
	actions          int
	timeout          time.Duration
}

func (m *migration) register(cmd *cobra.Command) {
	cmd.Flags().
		BoolVar(&m.plan, "plan", false, "print the steps that move this cluster, and which are done (from metallb)")
	cmd.Flags().BoolVar(&m.next, "next", false, "do the next step, and wait until it is done")
	cmd.Flags().BoolVar(&m.back, "back", false, "undo the last step, and wait until it is undone")
	cmd.Flags().
		IntVar(&m.actions, "actions", 0, "stop --next or --back after so many changes of the cluster, as an interruption would; 0: do them all")
	cmd.Flags().
		DurationVar(&m.timeout, "timeout", 2*time.Minute, "how long --next or --back waits until a change has had its effect")
	cmd.Flags().BoolVar(&m.managed, "managed", false,
		"Argo CD, Flux or an operator reconcile MetalLB or Berth, and are suspended until the migration is over")
	cmd.MarkFlagsMutuallyExclusive("plan", "next", "back")
}

func (m *migration) asked() bool { return m.plan || m.next || m.back }

func (m *migration) args(cmd *cobra.Command, args []string) error {
	if m.asked() {
		return cobra.NoArgs(cmd, args)
	}
	return cobra.MinimumNArgs(1)(cmd, args)
}

func (m *migration) run(ctx context.Context, c *common, out *output, source string) error {
	if source != "metallb" {
		return fmt.Errorf("--from %s: --plan, --next and --back move a cluster from metallb only; "+
			"convert the configuration from files", source)
	}
	to, err := c.clients()
	if err != nil {
		return err
	}
	changes, err := dynamic.NewForConfig(to.Config)
	if err != nil {
		return err
	}
	schemas, err := lint.NewSchemas()
	if err != nil {
		return err
	}
	read := (&steps.Reader{Clients: to, Dynamic: changes, Schemas: schemas, Namespace: c.namespace}).Read
	s, err := read(ctx)
	if err != nil {
		return err
	}
	all, err := steps.Plan(s)
	if err != nil {
		return err
	}
	if !m.back {
		for _, l := range s.Report {
			if l.Outcome == migrate.NoCounterpart {
				fmt.Fprintln(c.ErrOut, "note:", printable(l.Object+" has no counterpart: "+l.Text()))
			}
		}
	}
	notes := s.OfHelm()
	if !m.back {
		notes = append(notes, s.Elsewhere()...)
	}
	if m.back || m.managed {
		notes = append(notes, s.Reconciled()...)
	}
	for _, note := range notes {
		fmt.Fprintln(c.ErrOut, "note:", printable(note))
	}
	if m.plan {
		for _, reason := range steps.Refusals(s, all, m.managed) {
			fmt.Fprintln(c.ErrOut, "refused:", printable(reason))
		}
		return printPlan(c, out, all)
	}
	step, found := steps.Next(all)
	doing, nothing := "do", "every step is done: uninstall MetalLB, and then: kubectl label nodes --all "+
		steps.SpeaksLabel+"-"
	if m.back {
		step, found = steps.Back(all)
		doing, nothing = "undo", "no step is done, so none can be undone"
	}
	if !found {
		fmt.Fprintln(c.Out, nothing)
		return nil
	}
	fmt.Fprintf(c.Out, "%s %s: %s\n", doing, step.Name, step.Text)
	runner := &steps.Runner{
		Read: read, Poll: 500 * time.Millisecond, Timeout: m.timeout, Actions: m.actions, Managed: m.managed,
		Act: func(ctx context.Context, a steps.Action) error { return steps.Act(ctx, changes, a) },
		Say: func(text string) { fmt.Fprintln(c.Out, printable(text)) },
	}
	if err := runner.Run(ctx, step.Name, m.back); err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "%sne\n", doing)
	return nil
}

// plannedStep is a step as it is printed.
type plannedStep struct {
	Number int    `json:"number"`
	Name   string `json:"name"`
	State  string `json:"state"`
	Text   string `json:"text"`
	// Pending is what does not hold yet.
	Pending string `json:"pending,omitempty"`
	// Do and Undo are what is left to be done, or to be undone.
	Do   []plannedPhase `json:"do,omitempty"`
	Undo []plannedPhase `json:"undo,omitempty"`
}

type plannedPhase struct {
	Commands []string `json:"commands,omitempty"`
	Check    string   `json:"check"`
	Holds    bool     `json:"holds"`
}

func plannedPhases(phases []steps.Phase) (all []plannedPhase) {
	for _, p := range phases {
		printed := plannedPhase{Check: p.Check, Holds: p.Holds()}
		if p.Stay > 0 {
			printed.Check += ", for " + p.Stay.String()
		}
		if !p.Holds() {
			for _, a := range p.Actions {
				printed.Commands = append(printed.Commands, a.Command())
			}
		}
		all = append(all, printed)
	}
	return all
}

func printPlan(c *common, out *output, all []steps.Step) error {
	planned := []plannedStep{}
	for i, s := range all {
		p := plannedStep{Number: i + 1, Name: s.Name, State: s.State(), Text: s.Text}
		if !s.Done() {
			p.Do = plannedPhases(s.Do)
		}
		if !s.Undone() {
			p.Undo = plannedPhases(s.Undo)
		}
		if p.State == "begun" {
			for _, phase := range s.Do {
				if p.Pending == "" {
					p.Pending = phase.Pending
				}
			}
		}
		planned = append(planned, p)
	}
	err := out.print(c.Out, planned, func(w io.Writer, wide bool) {
		if wide {
			printScript(w, planned)
			return
		}
		fmt.Fprintln(w, "STEP\tNAME\tSTATE\tWHAT IT DOES")
		for _, p := range planned {
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", p.Number, p.Name, p.State, p.Text)
			if p.Pending != "" {
				fmt.Fprintf(w, "\t\t\twaits: %s\n", p.Pending)
			}
		}
	})
	if _, left := steps.Next(all); err == nil && left {
		return errFinds
	}
	return err
}

// printScript writes the commands of the next step for a shell, and as comments those that undo the
// last one. What later steps need depends on what is there by then.
func printScript(w io.Writer, planned []plannedStep) {
	fmt.Fprint(
		w,
		"# Run the commands of one step only, wait until its checks hold, and print the plan again: those of\n"+
			"# the steps after it depend on what is there by then. What undoes a step is commented out.\n\n",
	)
	next := slices.IndexFunc(planned, func(p plannedStep) bool { return len(p.Do) > 0 })
	last := -1
	for i, p := range planned {
		if len(p.Undo) > 0 {
			last = i
		}
	}
	for i, p := range planned {
		fmt.Fprintf(w, "# %d %s (%s): %s\n", p.Number, p.Name, p.State, p.Text)
		if i == next {
			printPhases(w, "to do it", "", p.Do)
		}
		if i == last {
			printPhases(w, "to undo it", "# ", p.Undo)
		}
		fmt.Fprintln(w)
	}
}

// printPhases writes commands and checks, with a prefix before each line of a command.
func printPhases(w io.Writer, title, prefix string, phases []plannedPhase) {
	fmt.Fprintf(w, "# %s:\n", title)
	for _, phase := range phases {
		for _, command := range phase.Commands {
			fmt.Fprintln(w, prefix+strings.ReplaceAll(command, "\n", "\n"+prefix))
		}
		fmt.Fprintln(w, "# check: "+phase.Check)
	}
}

// printObjects writes objects as documents of YAML.
func printObjects(w io.Writer, objects []*unstructured.Unstructured) error {
	for i, o := range objects {
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			return err
		}
		if i > 0 {
			text = append([]byte("---\n"), text...)
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
	}
	return nil
}
