package queue

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	fwk "k8s.io/kube-scheduler/framework"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
)

// Name is the plugin's name in a KubeSchedulerConfiguration.
const Name = "Queue"

// NewFactory is the factory to register under Name. The plugins that it makes, one for each profile, share the state. There are no
// arguments: what queues may do stands in the Queue objects.
func NewFactory(s *State) frameworkruntime.PluginFactory {
	return func(ctx context.Context, obj runtime.Object, handle fwk.Handle) (fwk.Plugin, error) {
		if u, ok := obj.(*runtime.Unknown); obj != nil && (!ok || len(u.Raw) > 0) {
			return nil, fmt.Errorf("plugin %s: pluginConfig[Queue].args: there are no arguments, want none", Name)
		}
		if err := s.join(ctx, handle); err != nil {
			return nil, fmt.Errorf("plugin %s: %w", Name, err)
		}
		return &Plugin{shared: s}, nil
	}
}

// Plugin implements Queue for one profile.
type Plugin struct{ shared *State }

var (
	_ fwk.PreEnqueuePlugin  = (*Plugin)(nil)
	_ fwk.PreFilterPlugin   = (*Plugin)(nil)
	_ fwk.FilterPlugin      = (*Plugin)(nil)
	_ fwk.PostFilterPlugin  = (*Plugin)(nil)
	_ fwk.ReservePlugin     = (*Plugin)(nil)
	_ fwk.PreBindPlugin     = (*Plugin)(nil)
	_ fwk.SignPlugin        = (*Plugin)(nil)
	_ fwk.EnqueueExtensions = (*Plugin)(nil)
)

// Name implements fwk.Plugin.
func (*Plugin) Name() string { return Name }

// PreEnqueue implements fwk.PreEnqueuePlugin: a pod whose queue says no waits outside of the scheduling queue, with a condition of
// our own that no autoscaler acts on.
func (pl *Plugin) PreEnqueue(_ context.Context, pod *v1.Pod) *fwk.Status {
	if message := pl.shared.gate(pod); message != "" {
		return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, message)
	}
	return nil
}

// EventsToRegister implements fwk.EnqueueExtensions. No event of the framework tells of what a queue waits for (hours that are
// freed, a period's turn, a Queue that changes); the state activates the pods that it lets through, see [State]. A pod that changes
// itself is looked at again by PreEnqueue, for it may name another queue.
func (pl *Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	return []fwk.ClusterEventWithHint{
		{Event: fwk.ClusterEvent{Resource: fwk.TargetPod, ActionType: fwk.UpdatePodLabel}},
	}, nil
}

// SignPod implements fwk.SignPlugin: pods of one queue that say the same run time are treated the same here.
func (pl *Plugin) SignPod(_ context.Context, pod *v1.Pod) ([]fwk.SignFragment, *fwk.Status) {
	queue, runtime := pl.shared.signature(pod)
	return []fwk.SignFragment{{Key: "weft.sh/queue", Value: fmt.Sprintf("%s %d", queue, runtime)}}, nil
}
