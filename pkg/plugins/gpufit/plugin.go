package gpufit

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	fwk "k8s.io/kube-scheduler/framework"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"

	"weft.sh/weft/pkg/apis/config/scheme"
	"weft.sh/weft/pkg/cluster"
)

// Name is the plugin's name in a KubeSchedulerConfiguration.
const Name = "GPUFit"

// NewFactory is the factory to register under Name. The plugins that it makes, one for each profile, share the state.
func NewFactory(s *State) frameworkruntime.PluginFactory {
	return func(ctx context.Context, obj runtime.Object, handle fwk.Handle) (fwk.Plugin, error) {
		args, err := scheme.GPUFitArgs(obj)
		if err != nil {
			return nil, fmt.Errorf("plugin %s: %w", Name, err)
		}
		if err := s.Join(handle); err != nil {
			return nil, fmt.Errorf("plugin %s: %w", Name, err)
		}
		l := newLearner(ctx, s.options.Inline, args)
		s.learn(handle.ProfileName(), l)
		return &Plugin{handle: handle, shared: s, snapshot: cluster.NewSnapshot(), learner: l, now: time.Now}, nil
	}
}

// Plugin implements GPUFit for one profile.
type Plugin struct {
	handle  fwk.Handle
	shared  *State
	learner *learner
	seed    sync.Once // learns from what was there before the first cycle
	now     func() time.Time

	// snapshot is brought up to date by PreFilter and read by the rest of the scheduling cycle; cycles do not overlap.
	snapshot *cluster.Snapshot
}

var (
	_ fwk.PreFilterPlugin     = (*Plugin)(nil)
	_ fwk.PreFilterExtensions = (*Plugin)(nil)
	_ fwk.FilterPlugin        = (*Plugin)(nil)
	_ fwk.ScorePlugin         = (*Plugin)(nil)
	_ fwk.ScoreExtensions     = (*Plugin)(nil)
	_ fwk.ReservePlugin       = (*Plugin)(nil)
	_ fwk.BindPlugin          = (*Plugin)(nil)
	_ fwk.SignPlugin          = (*Plugin)(nil)
	_ fwk.EnqueueExtensions   = (*Plugin)(nil)
)

// Name implements fwk.Plugin.
func (*Plugin) Name() string { return Name }
