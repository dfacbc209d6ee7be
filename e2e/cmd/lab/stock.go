//go:build linux

package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/berth-lb/berth/e2e/stock"
)

func fetchCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "fetch",
		Short: "Download and unpack the system's packages the lab runs (installs nothing)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			folder, err := stock.Find()
			if err != nil {
				return err
			}
			if err := folder.Fetch(cmd.Context(), cmd.OutOrStdout()); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "packages are unpacked in %s\n", folder.Packages())
			return nil
		},
	}
}

func buildCommand() *cobra.Command {
	var metalLB, installers, company, previous, dns bool
	var kubernetes []string
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Build Kubernetes, Berth and the lab's own programs, and pack the images",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			folder, err := stock.Find()
			if err != nil {
				return err
			}
			for _, part := range []struct {
				wanted bool
				build  func(context.Context, io.Writer) error
			}{
				{true, folder.Build}, {metalLB, folder.BuildMetalLB}, {installers, folder.BuildInstallers},
				{company, folder.BuildCompany}, {previous, folder.BuildPrevious}, {dns, folder.BuildDNS},
			} {
				if !part.wanted {
					continue
				}
				if err := part.build(cmd.Context(), cmd.OutOrStdout()); err != nil {
					return err
				}
			}
			for _, version := range kubernetes {
				if err := folder.BuildKubernetes(cmd.Context(), cmd.OutOrStdout(), version); err != nil {
					return err
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "binaries are in %s, images in %s\n", folder.Bin(""), folder.Images())
			return nil
		},
	}
	cmd.Flags().BoolVar(&metalLB, "metallb", false, "build MetalLB too, which the release tests run beside Berth")
	cmd.Flags().BoolVar(&company, "company", false, "build Traefik, external-dns and Envoy Gateway too, which the release tests run behind and beside Berth")
	cmd.Flags().BoolVar(&installers, "installers", false, "build Helm 3 and 4 and Flux's library too, with which the release tests install Berth")
	cmd.Flags().BoolVar(&previous, "previous", false, "build the previous version of Berth too, from which the release tests upgrade")
	cmd.Flags().BoolVar(&dns, "dns", false, "build CoreDNS too, for `lab up --dns`, and what Pods of the tutorial of Services run")
	cmd.Flags().StringSliceVar(&kubernetes, "kubernetes", nil, "build these versions of Kubernetes too, such as v1.34.4, for `lab up --kubernetes`")
	return cmd
}
