package main

import (
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"weft.sh/weft/pkg/playground"
)

func newCommand(out io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:           "weft-playground",
		Short:         "A Kubernetes cluster with simulated GPU nodes and the real weft-scheduler, on one machine",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetOut(out)
	root.AddCommand(newUp(out))
	return root
}

func newUp(out io.Writer) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:  "up",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			cp, err := playground.StartControlPlane(cmd.Context(), playground.ControlPlaneOptions{Dir: dir, Log: out, Binary: filepath.Clean(exe)})
			if err != nil {
				return err
			}
			path, err := cp.Kubeconfig(playground.AdminUser)
			if err != nil {
				return err
			}
			io.WriteString(out, path+"\n")
			select {
			case <-cmd.Context().Done():
			case <-cp.Done():
				cp.Stop()
				return cp.Err()
			}
			return cp.Stop()
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "directory of the run")
	return cmd
}
