package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/quota"
)

// whyOptions are the flags of weft why.
type whyOptions struct {
	output string
}

func newWhy(s *shell) *cobra.Command {
	o := &whyOptions{}
	cmd := &cobra.Command{
		Use:   "why [NAMESPACE/]POD | podgroup/NAME",
		Short: "Say why a pod or a gang waits, or where it is",
		Long: `Say why a pod waits, or where it is and which GPUs it holds.

For every class of nodes (the same GPUs and the same taints) there is one reason: that of the node which comes nearest to
taking the pod, with its figures and what would have to change. The decision is made by the scheduler's own code on what the
API server shows now. Other pods that wait, and what the scheduler has decided a moment ago, are not seen.

When its queue holds it back, it says which queue says no, with the figures, and when it could start.

Of a gang, named as podgroup/NAME or by one of its pods, it says who is missing and whether there is room for all of it at
once, by the scheduler's own planner: where, or what comes nearest.`,
		Example: `  # A pod of the current namespace
  weft why train-0

  # A pod of another one
  weft why ml/train-0

  # A gang
  weft why -n ml podgroup/train

  # A pod, for a script
  weft why -n ml train-0 -o json | jq -r '.classes[] | "\(.nodes) \(.reason)"'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("%d arguments: want the name of one pod, or podgroup/NAME\nsee %s --help", len(args), cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := validOutput(o.output, "json", "yaml"); err != nil {
				return err
			}
			return o.run(cmd, s, args[0])
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return s.podNames(cmd.Context(), prefix), cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "json or yaml; the default is for people")
	complete(cmd, "output", "json", "yaml")
	return cmd
}

func (o *whyOptions) run(cmd *cobra.Command, s *shell, arg string) error {
	if name, ok := groupNamed(arg); ok {
		return o.runGroup(cmd, s, arg, name)
	}
	namespace, name, err := s.podNamed(arg)
	if err != nil {
		return err
	}
	client, err := s.client()
	if err != nil {
		return err
	}
	pod, err := client.CoreV1().Pods(namespace).Get(cmd.Context(), name, metav1.GetOptions{})
	if err != nil {
		return notGot(arg, namespace, name, err)
	}
	answer, done := NewPodAnswer(pod, s.schedulerName)
	if answer.Verdict == VerdictBound {
		// Who may not read nodes still learns the rest.
		if _, err := client.CoreV1().Nodes().Get(cmd.Context(), answer.Node, metav1.GetOptions{}); apierrors.IsNotFound(err) {
			answer.nodeGone()
		}
	}
	opts := AnswerOptions{Colour: s.colour(), ASCII: ascii()}
	if !done {
		objects, err := s.read(cmd.Context(), client, pod)
		if err != nil {
			return errors.Join(err, lastWord(pod))
		}
		answer = NewAnswer(pod, objects, s.schedulerName)
		if err := s.explainQueue(cmd.Context(), client, pod, objects, &answer); err != nil {
			return err
		}
		if answer.PodGroup != "" {
			if g, ok := NewGangAnswer(namespace, answer.PodGroup, objects, s.schedulerName, s.levels); ok && g.Verdict != VerdictNotGang {
				answer.join(g)
				opts.Gang = &g
			}
		}
	}
	if o.output != "" {
		return encode(s.streams.Out, o.output, answer)
	}
	return RenderAnswer(s.streams.Out, answer, opts)
}

// read reads what an answer about a pod that is not placed rests on.
func (s *shell) read(ctx context.Context, client kubernetes.Interface, pod *v1.Pod) (Objects, error) {
	if k, ok := podgroup.KeyOf(pod); ok {
		return s.readGang(ctx, client, k)
	}
	progress, finished := s.progress()
	defer finished()
	return List(ctx, client, progress)
}

// explainQueue adds what the pod's queue says. Who may not read queues still learns the rest.
func (s *shell) explainQueue(ctx context.Context, client kubernetes.Interface, pod *v1.Pod, o Objects, a *Answer) error {
	if a.Verdict == VerdictOtherScheduler {
		return nil // which knows no queues
	}
	d, err := s.dynamic()
	if err != nil {
		return err
	}
	q, err := ListQueues(ctx, client, d, nil)
	if isForbidden(err) {
		a.NotChecked = append(a.NotChecked, "its queue, for you may not read Queues, GPUClasses and namespaces")
		if h := said(pod); h != nil && quota.HoldsBack(h.Reason) {
			// The label is all that is known of it then.
			queue := pod.Labels[podspec.LabelQueue]
			a.hold(&QueueHold{Queue: queue, HeldBy: queue, Reason: h.Reason, Message: h.Message, WaitsFor: waitsFor(reasonNamed(h.Reason), queue, "")})
		}
		return nil
	}
	if err != nil {
		return err
	}
	a.hold(NewQueueHold(pod, q, o, time.Now().Unix()))
	return nil
}

// runGroup is run for a gang.
func (o *whyOptions) runGroup(cmd *cobra.Command, s *shell, arg, name string) error {
	if name == "" {
		return fmt.Errorf("%q is no name of a PodGroup: want podgroup/NAME or podgroup/NAMESPACE/NAME", arg)
	}
	namespace, name, err := s.podNamed(name)
	if err != nil {
		return err
	}
	client, err := s.client()
	if err != nil {
		return err
	}
	objects, err := s.readGang(cmd.Context(), client, gang.Key{Namespace: namespace, Name: name})
	if err != nil {
		return errors.Join(err, s.lastWordOfGroup(cmd.Context(), namespace, name))
	}
	answer, ok := NewGangAnswer(namespace, name, objects, s.schedulerName, s.levels)
	if !ok {
		return fmt.Errorf("podgroup %q not found in namespace %q, and no pod names it: is it in another namespace (-n)?", name, namespace)
	}
	if o.output != "" {
		return encode(s.streams.Out, o.output, answer)
	}
	return RenderGangAnswer(s.streams.Out, answer, AnswerOptions{Colour: s.colour(), ASCII: ascii()})
}

// groupNamed is what follows a word for PodGroups, and false where the argument does not begin with one.
func groupNamed(arg string) (name string, ok bool) {
	first, rest, qualified := strings.Cut(arg, "/")
	kind, _, _ := strings.Cut(strings.ToLower(first), ".") // podgroups.scheduling.x-k8s.io
	return rest, qualified && slices.Contains([]string{"podgroup", "podgroups", "pg", "pgs"}, kind)
}

// podNamed reads what a pod is called by: POD, pod/POD, or NAMESPACE/POD as weft prints it.
func (s *shell) podNamed(arg string) (namespace, name string, err error) {
	namespace, err = s.namespace()
	if err != nil {
		return "", "", err
	}
	first, rest, qualified := strings.Cut(arg, "/")
	switch {
	case !qualified && arg != "":
		return namespace, arg, nil
	case slices.Contains([]string{"pod", "pods", "po"}, strings.ToLower(first)):
		return s.podNamed(rest)
	case first == "" || rest == "" || strings.Contains(rest, "/"):
		return "", "", fmt.Errorf("%q is no name of a pod: want POD, pod/POD or NAMESPACE/POD", arg)
	case *s.flags.Namespace != "" && *s.flags.Namespace != first:
		return "", "", fmt.Errorf("%s is in namespace %s, and --namespace is %s: want one of them", arg, first, namespace)
	}
	return first, rest, nil
}

// notPods are kinds that people name when they mean their pods, as kubectl has them. There can be namespaces of such names,
// so it is asked only when there is no such pod.
var notPods = []string{
	"deploy", "deployment", "deployments", "rs", "replicaset", "replicasets", "sts", "statefulset", "statefulsets", "ds",
	"daemonset", "daemonsets", "job", "jobs", "cj", "cronjob", "cronjobs", "svc", "service", "services", "no", "node", "nodes",
	"jobset", "jobsets",
}

// notGot says why there is no pod to speak of, given what the API server answered.
func notGot(arg, namespace, name string, err error) error {
	kind, _, _ := strings.Cut(strings.ToLower(namespace), ".") // deployments.apps
	switch {
	case (apierrors.IsNotFound(err) || apierrors.IsForbidden(err)) && strings.Contains(arg, "/") && slices.Contains(notPods, kind):
		return fmt.Errorf("%s is not a pod: want the name of one of its pods, see kubectl get pods", arg)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("pod %q not found in namespace %q: is it in another namespace (-n)?", name, namespace)
	}
	return fmt.Errorf("reading pod %s/%s: %w", namespace, name, err)
}

// lastWord is what is left to say to somebody who may see the pod and not the cluster: what the scheduler said of it. It is
// nil when it said nothing.
func lastWord(pod *v1.Pod) error {
	if s := said(pod); s != nil && s.Message != "" {
		return fmt.Errorf("\nof the pod the scheduler said: %s: %s", s.Reason, s.Message)
	}
	return nil
}

// lastWordOfGroup is lastWord for a gang: what its status says.
func (s *shell) lastWordOfGroup(ctx context.Context, namespace, name string) error {
	groups, err := s.dynamic()
	if err != nil {
		return nil // it has been said
	}
	u, err := groups.Resource(podgroup.Resource).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	phase, _, _ := unstructured.NestedString(u.Object, "status", "phase")
	if message, _, _ := unstructured.NestedString(u.Object, "status", "message"); message != "" {
		return fmt.Errorf("\nof the gang its status says: %s: %s", phase, message)
	}
	return nil
}

// podNames are the pods of the namespace whose names begin with the prefix, for completion: without a cluster, none.
func (s *shell) podNames(ctx context.Context, prefix string) []string {
	namespace, err := s.namespace()
	if err != nil {
		return nil
	}
	client, err := s.client()
	if err != nil {
		return nil
	}
	pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{Limit: pageSize})
	if err != nil {
		return nil
	}
	var names []string
	for i := range pods.Items {
		if strings.HasPrefix(pods.Items[i].Name, prefix) {
			names = append(names, pods.Items[i].Name)
		}
	}
	return names
}

// namespaces are those whose names begin with the prefix, for completion.
func (s *shell) namespaces(ctx context.Context, prefix string) []string {
	client, err := s.client()
	if err != nil {
		return nil
	}
	namespaces, err := client.CoreV1().Namespaces().List(ctx, metav1.ListOptions{Limit: pageSize})
	if err != nil {
		return nil
	}
	var names []string
	for i := range namespaces.Items {
		if strings.HasPrefix(namespaces.Items[i].Name, prefix) {
			names = append(names, namespaces.Items[i].Name)
		}
	}
	return names
}
