package cli

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Version says what was built, and from what: `weft version -o json`.
type Version struct {
	// Version is the module's version; (devel) for a build from a working tree without one.
	Version string `json:"version"`
	// Revision is the commit, with -dirty when the tree had changes; empty when it is not known.
	Revision string `json:"revision"`
	// Go is the version of the compiler.
	Go string `json:"go"`
	// Platform is operating system and architecture.
	Platform string `json:"platform"`
	// Kubernetes is the version of the Kubernetes client libraries.
	Kubernetes string `json:"kubernetes"`
}

func newVersion(s *shell) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := validOutput(output, "json", "yaml"); err != nil {
				return err
			}
			v := built()
			if output != "" {
				return encode(s.streams.Out, output, v)
			}
			_, err := io.WriteString(s.streams.Out, v.String())
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	complete(cmd, "output", "json", "yaml")
	return cmd
}

// String is the version for people, in a few lines.
func (v Version) String() string {
	revision := ""
	if v.Revision != "" {
		revision = "revision " + v.Revision + "\n"
	}
	return fmt.Sprintf("weft %s\n%s%s, %s, Kubernetes libraries %s\n", v.Version, revision, v.Go, v.Platform, v.Kubernetes)
}

// built is the version of this binary.
func built() Version {
	info, _ := debug.ReadBuildInfo()
	return versionOf(info)
}

// versionOf reads what the go command recorded in the binary; info may be nil.
func versionOf(info *debug.BuildInfo) Version {
	v := Version{Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info == nil {
		return v
	}
	v.Version = info.Main.Version
	dirty := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			v.Revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if v.Revision != "" {
		v.Revision += dirty
	}
	for _, d := range info.Deps {
		if d.Path == "k8s.io/client-go" {
			v.Kubernetes = d.Version
		}
	}
	return v
}
