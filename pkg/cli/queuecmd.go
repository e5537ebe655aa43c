package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newQueue(s *shell) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "queue [NAME]",
		Aliases: []string{"queues"},
		Short:   "Show the queues, what they have and what is left of their budgets",
		Long: `Show the tree of queues: what they are guaranteed, what runs, is borrowed and waits, and what was used and is left of their budgets. Of one
queue, named, it shows all: who may use it, its windows and adjustments, and what waits in it and why.

The numbers of a queue are those of all below it too. They are what weft-controller last wrote into the statuses of the Queues.`,
		Example: `  # All queues
  weft queue

  # One of them, and what waits in it
  weft queue research

  # Queues of which less than a tenth is left, for a script
  weft queue -o json | jq -r '.queues[] | select(.budget != null and .budget.leftMilliGPUSeconds * 10 < .budget.limitMilliGPUSeconds) | .queue'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := validOutput(output, "json", "yaml"); err != nil {
				return err
			}
			name := ""
			if len(args) > 0 {
				// As kubectl prints names: queue/research, queue.weft.sh/research.
				name = args[0][strings.LastIndex(args[0], "/")+1:]
				if name == "" {
					return fmt.Errorf("%q is no name of a queue", args[0])
				}
			}
			return runQueue(cmd, s, name, output)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			o, err := s.listQueues(cmd.Context())
			if err != nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, q := range o.Queues {
				if strings.HasPrefix(q.Name, prefix) {
					names = append(names, q.Name)
				}
			}
			slices.Sort(names)
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json or yaml; the default is for people")
	complete(cmd, "output", "json", "yaml")
	return cmd
}

func runQueue(cmd *cobra.Command, s *shell, name, output string) error {
	o, err := s.listQueues(cmd.Context())
	if err != nil {
		return err
	}
	now := time.Now().Unix()
	if name == "" {
		q := NewQueues(o, now)
		if output != "" {
			return encode(s.streams.Out, output, q)
		}
		return RenderQueues(s.streams.Out, q, s.colour(), ascii())
	}
	if o.queue(name) == nil {
		return noQueue(name, o)
	}
	client, err := s.client()
	if err != nil {
		return err
	}
	progress, done := s.progress()
	objects, err := List(cmd.Context(), client, progress)
	done()
	if err != nil {
		return err
	}
	a, _ := NewQueueAnswer(name, o, objects.Pods, s.schedulerName, now)
	if output != "" {
		return encode(s.streams.Out, output, a)
	}
	return RenderQueueAnswer(s.streams.Out, a, s.colour(), ascii())
}

// noQueue says that there is no queue of that name, and what there is.
func noQueue(name string, o QueueObjects) error {
	if !o.Served {
		return fmt.Errorf("queue %q not found: the cluster does not know Queues; kubectl apply -k manifests/crds has their definition", name)
	}
	var names []string
	for _, q := range o.Queues {
		names = append(names, q.Name)
	}
	slices.Sort(names)
	if len(names) == 0 {
		return fmt.Errorf("queue %q not found: there are no queues", name)
	}
	return fmt.Errorf("queue %q not found: there are %s", name, shortList(names, 20))
}
