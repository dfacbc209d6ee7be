package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/berth-lb/berth/internal/apply"
	"github.com/berth-lb/berth/internal/version"
)

// settle is how long an API server may take to serve what a CRD has just brought.
const settle = 5 * time.Second

// applyOptions are the flags of `berth apply`.
type applyOptions struct {
	flags   common
	crds    bool
	owner   string
	prune   bool
	check   []string
	timeout time.Duration
}

func applyCommand() *cobra.Command {
	var o applyOptions
	c := &cobra.Command{
		Use:   "apply [FILE...]",
		Short: "Apply Berth's CRDs, and configuration from files, as the Helm chart's hooks do",
		RunE: func(c *cobra.Command, files []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), o.timeout)
			defer cancel()
			return o.run(ctx, files)
		},
	}
	c.Flags().StringVar(&o.flags.kubeconfig, "kubeconfig", "", "kubeconfig file; default: the Pod's ServiceAccount")
	c.Flags().BoolVarP(&o.flags.verbose, "verbose", "v", false, "log details, too")
	c.Flags().
		BoolVar(&o.crds, "crds", false, "first create the CRDs of this version, or replace them, and wait until they are established")
	c.Flags().
		StringVar(&o.owner, "owner", "", "label objects as from the values of this Helm release, and leave others' objects alone")
	c.Flags().BoolVar(&o.prune, "prune", false, "delete the owner's objects that are not in the files")
	c.Flags().StringSliceVar(&o.check, "check", nil, "files whose objects the API server checks last, without a change")
	c.Flags().DurationVar(&o.timeout, "timeout", time.Minute, "give up after this time")
	return c
}

func (o *applyOptions) run(ctx context.Context, files []string) error {
	if o.prune && o.owner == "" {
		return errors.New("--prune: needs --owner, so that only its objects are deleted")
	}
	objects, err := readFiles(files)
	if err != nil {
		return err
	}
	candidates, err := readFiles(o.check)
	if err != nil {
		return err
	}
	config, err := o.flags.restConfig()
	if err != nil {
		return err
	}
	config.UserAgent = "berth-apply/" + version.Number()
	config.QPS, config.Burst = 50, 100 // some dozens of requests in all
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("client of the API server: %w", err)
	}
	a := &apply.Applier{Client: client, Log: o.flags.logger(), Owner: o.owner, Settle: settle}
	if o.crds {
		if err := a.Definitions(ctx); err != nil {
			return err
		}
	}
	if err := a.Objects(ctx, objects); err != nil {
		return err
	}
	if o.prune {
		if err := a.Prune(ctx, objects); err != nil {
			return err
		}
	}
	return a.Check(ctx, candidates)
}

func readFiles(files []string) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		read, err := apply.Read(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		objects = append(objects, read...)
	}
	return objects, nil
}
