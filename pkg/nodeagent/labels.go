package nodeagent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	corev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/podspec"
)

// fieldManager owns the labels that the agent sets on its node.
const fieldManager = "weft-node"

// labeller keeps the labels of the node that say what GPUs it has: those that others of NVIDIA's tools set and everybody reads. Labels
// are owned by who applied them first; one that somebody else has set otherwise stays as it is.
type labeller struct {
	client kubernetes.Interface
	node   *v1.Node
	board  *board
	// relabelled is sent to when the node's labels may no longer be what was set.
	relabelled chan struct{}
	// retry is the pause after a failure.
	retry time.Duration
	// foreign are the labels that were left to others the last time.
	foreign []string
}

// labelsOf is the labels for a state; none when the node has no GPU. A value that the API server would refuse, and all labels with it, is
// left out. The GPUs of a node are meant to be alike; where they are not, the
// first stands for all, and a problem says so.
func labelsOf(s *State) map[string]string {
	labels := allLabels(s)
	maps.DeleteFunc(labels, func(_, value string) bool { return len(validation.IsValidLabelValue(value)) > 0 })
	return labels
}

// unlabelled says which values are left out.
func unlabelled(s *State) (problems []string) {
	for name, value := range allLabels(s) {
		if errs := validation.IsValidLabelValue(value); len(errs) > 0 {
			problems = append(problems, fmt.Sprintf("the node is not labelled with %s, because %q cannot be a label's value: %s", name, value,
				strings.Join(errs, "; ")))
		}
	}
	slices.Sort(problems)
	return problems
}

// allLabels is labelsOf with values that are none.
func allLabels(s *State) map[string]string {
	first := s.first
	if first == nil {
		return nil
	}
	labels := map[string]string{
		podspec.LabelProduct:    first.Product,
		podspec.LabelCount:      strconv.Itoa(len(s.Devices)),
		podspec.LabelMemory:     strconv.FormatInt(first.TotalMemoryMiB, 10),
		podspec.LabelMIGCapable: strconv.FormatBool(first.MIGCapable),
	}
	if h := first.Hardware; h != nil {
		major, minor, _ := strings.Cut(h.ComputeCapability, ".")
		labels[podspec.LabelFamily] = h.Architecture
		labels[podspec.LabelComputeMajor], labels[podspec.LabelComputeMinor] = major, minor
		labels[podspec.LabelDriverVersion], labels[podspec.LabelCUDAVersion] = h.DriverVersion, h.CUDAVersion
		labels[podspec.LabelClique] = h.Clique
	}
	maps.DeleteFunc(labels, func(_, value string) bool { return value == "" }) // not known
	return labels
}

// run labels the node until ctx ends. What it has set stays; see [labeller.withdraw].
func (l *labeller) run(ctx context.Context) {
	var applied map[string]string
	fresh := false // applied is what the node has
	for {
		state, changed := l.board.look()
		if state != nil {
			if want := labelsOf(state); !fresh || !maps.Equal(applied, want) {
				if err := l.apply(ctx, want); err != nil {
					if ctx.Err() != nil {
						return
					}
					klog.FromContext(ctx).Error(err, "The node's labels of its GPUs cannot be set")
					pause(ctx, l.retry)
					continue
				}
				applied, fresh = want, true
			}
		}
		select {
		case <-changed:
		case <-l.relabelled:
			fresh = false
		case <-ctx.Done():
			return
		}
	}
}

// apply makes the labels of our own exactly these. Those that others have set otherwise are left to them.
func (l *labeller) apply(ctx context.Context, labels map[string]string) error {
	labels = maps.Clone(labels)
	var left []string
	for {
		// The UID, so that a node that was deleted is not created again.
		node := corev1.Node(l.node.Name).WithUID(l.node.UID).WithLabels(labels)
		_, err := l.client.CoreV1().Nodes().Apply(ctx, node, metav1.ApplyOptions{FieldManager: fieldManager})
		foreign := conflicting(err, labels)
		if len(foreign) == 0 {
			l.foreign = left
			return err
		}
		left = append(left, foreign...)
		slices.Sort(left)
		if !slices.Equal(left, l.foreign) {
			klog.FromContext(ctx).Info("Labels of the node are somebody else's and are left as they are", "labels", foreign, "conflict", err)
		}
		for _, name := range foreign {
			delete(labels, name)
		}
	}
}

// conflicting is which of the labels are somebody else's by the error.
func conflicting(err error, labels map[string]string) (names []string) {
	status, ok := err.(apierrors.APIStatus)
	if !ok || !apierrors.IsConflict(err) || status.Status().Details == nil {
		return nil
	}
	for _, cause := range status.Status().Details.Causes {
		// Field is a path such as .metadata.labels.nvidia.com/gpu.count.
		name, ok := strings.CutPrefix(cause.Field, ".metadata.labels.")
		if _, ours := labels[name]; ok && ours && cause.Type == metav1.CauseTypeFieldManagerConflict {
			names = append(names, name)
		}
	}
	return names
}

// withdraw removes the labels of our own.
func (l *labeller) withdraw(ctx context.Context) error { return l.apply(ctx, nil) }
