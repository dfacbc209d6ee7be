package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/berth-lb/berth/kubectl/lint"
	"github.com/berth-lb/berth/kubectl/migrate"
)

func migrateCommand(c *common) *cobra.Command {
	var out output
	var source string
	cmd := &cobra.Command{
		Use:   "migrate --from SOURCE FILE...",
		Short: "Convert the configuration of another load balancer, without a cluster",
		Long: `Convert the configuration of another load balancer, without a cluster.

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
could be converted.`,
		Example: `  # What MetalLB is told, from a cluster
  kubectl get -n metallb-system -o yaml ipaddresspools.metallb.io,l2advertisements.metallb.io \
    | kubectl berth migrate --from metallb - > berth.yaml

  # What is in Git, the Services too, and the report for a program
  kubectl berth migrate --from cilium -o json deploy/ > berth.yaml 2> report.json

  # Services with external addresses
  kubectl get services,nodes -A -o yaml | kubectl berth migrate --from external-ips - > berth.yaml`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
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
	cmd.Flags().StringVar(&source, "from", "", "what to convert from: "+strings.Join(migrate.Sources(), ", "))
	_ = cmd.MarkFlagRequired("from")
	_ = cmd.RegisterFlagCompletionFunc(
		"from", cobra.FixedCompletions(migrate.Sources(), cobra.ShellCompDirectiveNoFileComp),
	)
	return cmd
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
