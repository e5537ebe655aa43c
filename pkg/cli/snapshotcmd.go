package cli

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"weft.sh/weft/pkg/snapshot"
)

// snapshotOptions are the flags of weft snapshot.
type snapshotOptions struct {
	output    string
	anonymous bool
}

func newSnapshot(s *shell) *cobra.Command {
	o := &snapshotOptions{}
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Write down what decisions about the cluster rest on, for weft plan and simulations",
		Long: `Write down what decisions about the cluster rest on: nodes and their GPUs, pods that have not ended, PodGroups, Queues and GPUClasses.

Of pods it has what they ask for and hold and where they may run, and nothing of what runs in them: no environment, arguments, images,
volumes or secrets. docs/planning.md lists every field. --anonymous replaces names by hashes, which are others in each file.

weft plan what-if --snapshot FILE reads it back.`,
		Example: `  # To a file
  weft snapshot > cluster.json

  # To give away
  weft snapshot --anonymous > cluster.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := validOutput(o.output, "json", "yaml"); err != nil {
				return err
			}
			return o.run(cmd, s)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "json", "json (an object in each line) or yaml")
	f.BoolVar(&o.anonymous, "anonymous", false, "Replace the names of namespaces, pods, nodes, queues and the like by hashes")
	complete(cmd, "output", "json", "yaml")
	return cmd
}

func (o *snapshotOptions) run(cmd *cobra.Command, s *shell) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	custom, err := s.dynamic()
	if err != nil {
		return err
	}
	how := snapshot.Options{YAML: o.output == "yaml"}
	if o.anonymous {
		salt := make([]byte, 32)
		if _, err := io.ReadFull(rand.Reader, salt); err != nil {
			return err
		}
		how.Names = snapshot.Anonymise(salt)
	}
	progress, done := s.progress()
	left, err := snapshot.Take(cmd.Context(), snapshot.Source{
		Client: client, Dynamic: custom, Now: time.Now(), SchedulerName: s.schedulerName, Levels: s.levels, Progress: progress,
	}, s.streams.Out, how)
	done()
	var refused *snapshot.ListError
	if errors.As(err, &refused) && apierrors.IsForbidden(refused.Err) {
		return &ForbiddenError{Resource: refused.Resource, Group: refused.Group, err: refused.Err}
	}
	for _, what := range left {
		fmt.Fprintf(s.streams.ErrOut, "not in the snapshot: %s\n", what)
	}
	return err
}
