package gang

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	fwk "k8s.io/kube-scheduler/framework"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"

	"weft.sh/weft/pkg/apis/config"
	"weft.sh/weft/pkg/apis/config/scheme"
	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/plugins/gpufit"
)

// Name is the plugin's name in a KubeSchedulerConfiguration.
const Name = "Gang"

// Options are what the plugin cannot know by itself.
type Options struct {
	// State is the state of the process's GPUs, which plugin GPUFit has too. Required.
	State *gpufit.State
	// Native says whether the scheduler handles PodGroups of scheduling.k8s.io itself (its gate GenericWorkload), asked when the
	// first plugin is made.
	Native func() bool
	// Queues is the state of plugin Queue, nil for none.
	Queues Queues
}

// Queues is what plugin Queue knows about who may leave for whom, and what it is told of gangs.
type Queues interface {
	// Gangs has the function say which gangs are there and complete.
	Gangs(complete func(gang.Key) bool)
	// Room has the function make room for the job of a pod that limits of its queues alone hold back, in a cycle that is for nothing else.
	// The error, which is never nil, says what was done.
	Room(make func(ctx context.Context, pod *v1.Pod, nodes []fwk.NodeInfo) error)
	// MakeRoom calls that function if the cycle of any of the pods, of a native PodGroup, is for that; else it returns nil.
	MakeRoom(ctx context.Context, pods []*v1.Pod, nodes []fwk.NodeInfo) error
	// Admitted are those of a gang's members that run or that their queue lets start, in the order given.
	Admitted(members []*v1.Pod) []*v1.Pod
	// Reclaim is what pods that want to start together may take from others, when those that leave have left. caps are how much, in
	// milli-GPU, from each group of pods, and how much must leave for the limits of queues; of says of a pod that runs in which groups
	// it counts and how much, whether it may leave whatever its priority (owed), and whether it may if its priority is lower (ranked).
	// of is nil where priority decides about all.
	Reclaim(pods, leaving []*v1.Pod) (caps gang.Caps, of func(*v1.Pod) (groups []int, milliGPU int64, owed, ranked bool))
	// Promise says that the victims are about to leave for the pods, until that moment.
	Promise(pods, victims []*v1.Pod, until time.Time)
}

// NewFactory is the factory to register under Name. The plugins that it makes, one for each profile, share the plans.
func NewFactory(opts Options) frameworkruntime.PluginFactory { return newGangs(opts).factory() }

func (g *gangs) factory() frameworkruntime.PluginFactory {
	return func(ctx context.Context, obj runtime.Object, handle fwk.Handle) (fwk.Plugin, error) {
		args, err := scheme.GangArgs(obj)
		if err != nil {
			return nil, fmt.Errorf("plugin %s: %w", Name, err)
		}
		others, ok := handle.(others)
		if !ok {
			return nil, fmt.Errorf("plugin %s: the framework is a %T, want one that runs PreFilter plugins", Name, handle)
		}
		pl := &Plugin{handle: handle, others: others, args: args, gangs: g, snapshot: cluster.NewSnapshot(), now: time.Now, effort: maxWork}
		if err := g.join(ctx, pl); err != nil {
			return nil, fmt.Errorf("plugin %s: %w", Name, err)
		}
		return pl, nil
	}
}

// others runs the plugins of the profile, ours among them.
type others interface {
	RunPreFilterPlugins(ctx context.Context, state fwk.CycleState, pod *v1.Pod) (*fwk.PreFilterResult, *fwk.Status, sets.Set[string])
}

// Plugin implements Gang for one profile.
type Plugin struct {
	handle fwk.Handle
	others others
	args   *config.GangArgs
	gangs  *gangs
	now    func() time.Time
	// effort is what one search for places one by one may cost; see work.
	effort int

	// snapshot is what plans are made on; only PreFilter uses it, and scheduling cycles do not overlap.
	snapshot *cluster.Snapshot
}

var (
	_ fwk.QueueSortPlugin   = (*Plugin)(nil)
	_ fwk.PreEnqueuePlugin  = (*Plugin)(nil)
	_ fwk.PreFilterPlugin   = (*Plugin)(nil)
	_ fwk.FilterPlugin      = (*Plugin)(nil)
	_ fwk.PostFilterPlugin  = (*Plugin)(nil)
	_ fwk.ReservePlugin     = (*Plugin)(nil)
	_ fwk.PermitPlugin      = (*Plugin)(nil)
	_ fwk.PostBindPlugin    = (*Plugin)(nil)
	_ fwk.SignPlugin        = (*Plugin)(nil)
	_ fwk.EnqueueExtensions = (*Plugin)(nil)
)

// Name implements fwk.Plugin.
func (*Plugin) Name() string { return Name }
