package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// newAdvise is the command that has those which propose something to an administrator.
func newAdvise(s *shell) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "advise",
		Short: "Propose changes to the cluster that only an administrator can make",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newAdviseMIG(s))
	return cmd
}

// adviseMIGOptions are the flags of weft advise mig.
type adviseMIGOptions struct {
	output   string
	annotate bool
	snapshot string
}

func newAdviseMIG(s *shell) *cobra.Command {
	o := &adviseMIGOptions{}
	cmd := &cobra.Command{
		Use:   "mig",
		Short: "Propose how to divide the GPUs in MIG mode so that more pods find an instance",
		Long: `Propose how to divide anew what nobody holds of the GPUs in MIG mode: for the pods that wait for instances, and then for requests such as
those of the pods that there are. It changes nothing, and proposes nothing for GPUs that are partitioned on demand.

A GPU that nobody holds can be divided by NVIDIA's mig-manager: --annotate prints the entries of its configuration (mig-parted's) and the
label for each node. mig-manager destroys all instances of a GPU that it changes and stops the GPU clients of the node (device plugin,
DCGM exporter and the like) while it does, so a GPU that a pod holds a part of is left out; the rest of it can be divided with
nvidia-smi, whose steps are shown.`,
		Example: `  # What would help the pods that wait?
  weft advise mig

  # For mig-manager
  weft advise mig --annotate`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := validOutput(o.output, "json", "yaml"); err != nil {
				return err
			}
			if o.annotate && o.output != "" {
				return fmt.Errorf("--annotate and --output %s: want one of them: the output has the same and more", o.output)
			}
			return o.run(cmd, s)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "json or yaml; the default is for people")
	f.BoolVar(&o.annotate, "annotate", false, "Print the entries of mig-parted's configuration, and the label of each node, for mig-manager")
	f.StringVar(&o.snapshot, "snapshot", "", "A file of weft snapshot, instead of the cluster; - is the standard input")
	complete(cmd, "output", "json", "yaml")
	return cmd
}

func (o *adviseMIGOptions) run(cmd *cobra.Command, s *shell) error {
	objects, err := o.read(cmd, s)
	if err != nil {
		return err
	}
	a := NewMIGAdvice(objects, s.schedulerName)
	switch {
	case o.annotate:
		return annotate(s.streams.Out, a)
	case o.output != "":
		return encode(s.streams.Out, o.output, a)
	}
	return RenderMIGAdvice(s.streams.Out, a, s.colour(), ascii())
}

func (o *adviseMIGOptions) read(cmd *cobra.Command, s *shell) (Objects, error) {
	if o.snapshot != "" {
		_, objects, err := s.readSnapshot(o.snapshot)
		if err != nil {
			return Objects{}, err
		}
		return Objects{Nodes: objects.Nodes, Slices: objects.Slices, Pods: objects.Pods}, nil
	}
	client, err := s.client()
	if err != nil {
		return Objects{}, err
	}
	progress, done := s.progress()
	defer done()
	return List(cmd.Context(), client, progress)
}

// layoutText is instances, which are by start, in a few words: "3g.40gb, 2x 1g.10gb".
func layoutText(list []string) string {
	if len(list) == 0 {
		return "-"
	}
	var out []string
	for i := 0; i < len(list); {
		profile, _, _ := strings.Cut(list[i], "@")
		n := 0
		for ; i+n < len(list) && strings.HasPrefix(list[i+n], profile+"@"); n++ {
		}
		if n > 1 {
			profile = fmt.Sprintf("%dx %s", n, profile)
		}
		out = append(out, profile)
		i += n
	}
	return strings.Join(out, ", ")
}
