package perf

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler"
	schedulerapi "k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	"k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/metrics"
	"k8s.io/kubernetes/pkg/scheduler/profile"

	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/plugins/gpufit"
)

// block is how many pods one scheduler places before the other's turn.
const block = 50

// BenchmarkGPUFit measures the scheduling cycle of one pod, from the snapshot to Reserve, on a cluster of 5,000 nodes,
// with the in-tree plugins alone and with GPUFit among them. Every pod differs from the one before, so that nothing is
// batched: this is the dear case. The pods stay, so that the cluster fills as both go on, each its own.
//
// What is around the cycle (queue, API server, network) is the same for both and is left out; the API is in memory.
//
//	go test -run '^$' -bench GPUFit -benchtime 2000x -count 5 ./test/perf
func BenchmarkGPUFit(b *testing.B) {
	metrics.Register()
	klog.SetLogger(logr.Discard())
	for _, shape := range []string{"h100=5000", "a100-mig=1000,h100=1000,l4=3000"} {
		b.Run("nodes="+shape, func(b *testing.B) {
			rigs := []*rig{newRig(b, shape, false), newRig(b, shape, true)}
			pods := randomPods(b.N)
			var perPod [2][]float64 // microseconds, a value per block
			b.ResetTimer()
			for from := 0; from < len(pods); from += block {
				to := min(from+block, len(pods))
				for k := range rigs {
					// Who goes first alternates too.
					k = (k + from/block) % 2
					start := time.Now()
					for _, p := range pods[from:to] {
						rigs[k].schedule(b, p)
					}
					perPod[k] = append(perPod[k], float64(time.Since(start).Microseconds())/float64(to-from))
				}
			}
			b.StopTimer()
			without, with := median(perPod[0]), median(perPod[1])
			b.ReportMetric(0, "ns/op") // of both together: says nothing
			b.ReportMetric(without, "in-tree-µs/pod")
			b.ReportMetric(with, "gpufit-µs/pod")
			b.ReportMetric(with-without, "added-µs/pod")
			b.ReportMetric(with/without, "ratio")
			b.ReportMetric(float64(rigs[1].placed), "placed")
		})
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// rig is a scheduler that is driven by hand, a pod at a time.
type rig struct {
	scheduler *scheduler.Scheduler
	framework framework.Framework
	snapshot  *cache.Snapshot
	placed    int
}

func newRig(b *testing.B, shape string, withGPUFit bool) *rig {
	b.Helper()
	ctx := b.Context()
	nodes, err := playground.ParseNodes(shape)
	if err != nil {
		b.Fatal(err)
	}
	var objects []runtime.Object
	for _, n := range nodes {
		o := n.Object()
		objects = append(objects, o)
		for _, s := range n.Slices(o) {
			objects = append(objects, s)
		}
	}
	client := fake.NewClientset()
	for _, o := range objects {
		if err := client.Tracker().Add(o); err != nil {
			b.Fatal(err)
		}
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	snapshot := cache.NewEmptySnapshot()
	recorder := profile.RecorderFactory(func(string) events.EventRecorderLogger { return events.NewFakeRecorder(1) })
	s, err := scheduler.New(ctx, client, factory, nil, recorder,
		scheduler.WithProfiles(profileOf(b, withGPUFit)),
		scheduler.WithNodeInfoSnapshot(snapshot),
		scheduler.WithFrameworkOutOfTreeRegistry(frameworkruntime.Registry{
			gpufit.Name: gpufit.NewFactory(gpufit.NewState(gpufit.Options{ResourceSlices: func() bool { return true }})),
		}))
	if err != nil {
		b.Fatal(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	if err := s.WaitForHandlersSync(ctx); err != nil {
		b.Fatal(err)
	}
	return &rig{scheduler: s, framework: s.Profiles["weft"], snapshot: snapshot}
}

// profileOf is the default profile, with GPUFit as the shipped configuration has it or without.
func profileOf(b *testing.B, withGPUFit bool) schedulerapi.KubeSchedulerProfile {
	b.Helper()
	cfg, err := latest.Default()
	if err != nil {
		b.Fatal(err)
	}
	p := cfg.Profiles[0]
	p.SchedulerName = "weft"
	if withGPUFit {
		p.Plugins.MultiPoint.Enabled = append(p.Plugins.MultiPoint.Enabled, schedulerapi.Plugin{Name: gpufit.Name, Weight: 2000})
		p.Plugins.Filter.Enabled = []schedulerapi.Plugin{{Name: gpufit.Name}}
		p.Plugins.Bind.Enabled = []schedulerapi.Plugin{{Name: gpufit.Name}}
	}
	return p
}

// schedule runs one scheduling cycle and keeps the result, if any.
func (r *rig) schedule(b *testing.B, pod *v1.Pod) {
	ctx, logger := b.Context(), klog.Background()
	if err := r.scheduler.Cache.UpdateSnapshot(logger, r.snapshot); err != nil {
		b.Fatal(err)
	}
	info, err := framework.NewPodInfo(pod)
	if err != nil {
		b.Fatal(err)
	}
	state := framework.NewCycleState()
	result, err := r.scheduler.SchedulePod(ctx, r.framework, state, &framework.QueuedPodInfo{PodInfo: info})
	if err != nil {
		return // full
	}
	assumed := pod.DeepCopy()
	assumed.Spec.NodeName = result.SuggestedHost
	if err := r.scheduler.Cache.AssumePod(logger, assumed); err != nil {
		b.Fatal(err)
	}
	if s := reserve(ctx, r.framework, state, assumed, result.SuggestedHost); !s.IsSuccess() {
		b.Fatal(s.AsError())
	}
	r.placed++
}

func reserve(ctx context.Context, f framework.Framework, state fwk.CycleState, pod *v1.Pod, node string) *fwk.Status {
	return f.RunReservePluginsReserve(ctx, state, pod, node)
}

// randomPods are fractions of twenty sizes, whole GPUs and CPU-only pods, always the same.
func randomPods(n int) []*v1.Pod {
	r := rand.New(rand.NewPCG(1, 2))
	pods := make([]*v1.Pod, n)
	for i := range pods {
		p := playground.Pod{Name: fmt.Sprintf("pod-%d", i), CPUMilli: 500 * (1 + r.Int64N(16)), MemoryMiB: 1024 * (1 + r.Int64N(16))}
		switch k := r.IntN(10); {
		case k < 6:
			p.Percent = 5 * (1 + r.Int64N(20))
		case k < 9:
			p.GPUs = 1 << r.IntN(3)
		}
		o := p.Object()
		o.UID = types.UID(p.Name)
		pods[i] = o
	}
	return pods
}
