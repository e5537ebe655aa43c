package framework

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/kubernetes/pkg/scheduler"
	schedulerapi "k8s.io/kubernetes/pkg/scheduler/apis/config"
	schedulerscheme "k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	schedulerframework "k8s.io/kubernetes/pkg/scheduler/framework"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"

	"weft.sh/weft/manifests"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/plugins/gang"
	"weft.sh/weft/pkg/plugins/gpufit"
	"weft.sh/weft/pkg/plugins/queue"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/trace"
)

// Options change what is shipped.
type Options struct {
	// PercentageOfNodesToScore is that of a KubeSchedulerConfiguration: of how many nodes that fit the best is taken. nil means what is
	// shipped.
	PercentageOfNodesToScore *int32
}

// Scheduler schedules pods one by one on nodes of its own. It is for one goroutine.
type Scheduler struct {
	scheduler *scheduler.Scheduler
	informers informers.SharedInformerFactory
	pods      *informer
	// ctx is that of everything that runs, and stop ends it.
	ctx  context.Context
	stop context.CancelFunc

	outcomes chan outcome // of the pod whose turn it is
	devices  map[gpu.ID]int
	count    int
}

// outcome is what became of a pod: a Binding, or why there is none.
type outcome struct {
	pod     string
	binding *v1.Binding
	status  *fwk.Status
}

// shipped is the configuration that is shipped. The gates are those of the process, so they are set once.
var shipped = sync.OnceValues(func() (*schedulerapi.KubeSchedulerConfiguration, error) {
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(map[string]bool{string(features.OpportunisticBatching): false}); err != nil {
		return nil, err
	}
	text, err := manifests.FS.ReadFile(manifests.SchedulerConfig)
	if err != nil {
		return nil, err
	}
	obj, _, err := schedulerscheme.Codecs.UniversalDecoder().Decode(text, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", manifests.SchedulerConfig, err)
	}
	cfg, ok := obj.(*schedulerapi.KubeSchedulerConfiguration)
	if !ok || len(cfg.Profiles) != 1 {
		return nil, fmt.Errorf("%s is a %T, want a KubeSchedulerConfiguration with one profile", manifests.SchedulerConfig, obj)
	}
	return cfg, nil
})

// Start starts a scheduler for a cluster of these nodes. It ends with the context or with Close.
func Start(ctx context.Context, nodes []trace.Node, o Options) (_ *Scheduler, err error) {
	cfg, err := shipped()
	if err != nil {
		return nil, err
	}
	percentage := cfg.PercentageOfNodesToScore
	if o.PercentageOfNodesToScore != nil {
		percentage = o.PercentageOfNodesToScore
	}
	s := &Scheduler{outcomes: make(chan outcome, 1), devices: map[gpu.ID]int{}}
	// Nobody reads the log of a simulation; what goes wrong ends it.
	s.ctx, s.stop = context.WithCancel(klog.NewContext(ctx, logr.Discard()))
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	server := &api{bound: func(b *v1.Binding) { s.tell(outcome{pod: b.Name, binding: b}) }}
	client, err := kubernetes.NewForConfig(server.config())
	if err != nil {
		return nil, err
	}
	s.informers = informers.NewSharedInformerFactory(client, 0)
	s.pods = newInformer(s.informers, &v1.Pod{})
	nodeInformer, sliceInformer := newInformer(s.informers, &v1.Node{}), newInformer(s.informers, &resourceapi.ResourceSlice{})

	gpus := gpufit.NewState(gpufit.Options{ResourceSlices: func() bool { return true }, Inline: true})
	queues := queue.NewState(queue.Options{GPUs: gpus})
	s.scheduler, err = scheduler.New(s.ctx, client, s.informers, nil,
		func(string) events.EventRecorderLogger { return &events.FakeRecorder{} },
		scheduler.WithProfiles(*cfg.Profiles[0].DeepCopy()),
		scheduler.WithPercentageOfNodesToScore(percentage),
		scheduler.WithParallelism(1),
		scheduler.WithKubeConfig(server.config()),
		scheduler.WithFrameworkOutOfTreeRegistry(frameworkruntime.Registry{
			gpufit.Name: gpufit.NewFactory(gpus),
			gang.Name:   gang.NewFactory(gang.Options{State: gpus, Queues: queues}),
			queue.Name:  queue.NewFactory(queues),
		}))
	if err != nil {
		return nil, err
	}
	refuse := s.scheduler.FailureHandler
	s.scheduler.FailureHandler = func(ctx context.Context, f schedulerframework.Framework, p *schedulerframework.QueuedPodInfo,
		status *fwk.Status, n *fwk.NominatingInfo, start time.Time,
	) {
		refuse(ctx, f, p, status, n, start)
		s.tell(outcome{pod: p.Pod.Name, status: status})
	}
	// Its timers, which Run of the scheduler would start, are left out: no pod waits for one.
	context.AfterFunc(s.ctx, s.scheduler.SchedulingQueue.Close)
	s.informers.StartWithContext(s.ctx)
	for _, n := range nodes {
		made := playground.OpenbNode(n)
		for _, d := range made.Devices {
			s.devices[d.ID] = d.Index
		}
		object := made.Object()
		object.UID = types.UID(n.Name)
		if err := nodeInformer.add(object); err != nil {
			return nil, err
		}
		for _, slice := range made.Slices(object) {
			if err := sliceInformer.add(slice); err != nil {
				return nil, err
			}
		}
	}
	return s, errors.Join(s.informers.WaitForCacheSyncWithContext(s.ctx).AsError(), s.scheduler.WaitForHandlersSync(s.ctx))
}

// tell does not wait: the pod has one outcome, and after the end nobody asks.
func (s *Scheduler) tell(o outcome) {
	select {
	case s.outcomes <- o:
	case <-s.ctx.Done():
	}
}

// Close ends the scheduler.
func (s *Scheduler) Close() {
	s.stop()
	if s.informers != nil {
		s.informers.Shutdown()
	}
}

// ErrNoHundredths is wrapped by the error for a pod that nobody can write down.
var ErrNoHundredths = errors.New("a pod asks for hundredths of a GPU")

// Schedule schedules a pod: the name of its node and the indexes of its GPUs there. The node is empty when it is refused, and why then
// says what the scheduler told. Its name does not matter.
func (s *Scheduler) Schedule(ctx context.Context, p trace.Pod) (node string, gpus []int, why string, err error) {
	s.count++
	p.Name = "pod-" + strconv.Itoa(s.count)
	made, rounded := playground.OpenbPod(p)
	if rounded {
		return "", nil, "", fmt.Errorf("%w: %d thousandths are no whole number of them", ErrNoHundredths, p.MilliGPU)
	}
	pod := made.Object()
	pod.UID, pod.ResourceVersion = types.UID(p.Name), "1"
	pod.Spec.PreemptionPolicy = new(v1.PreemptNever)
	if err := s.pods.add(pod); err != nil {
		return "", nil, "", err
	}
	s.scheduler.ScheduleOne(s.ctx)
	select {
	case o := <-s.outcomes:
		node, gpus, why, err = s.settle(pod, o)
		if err != nil {
			err = fmt.Errorf("pod of %d milli-CPU, %d MiB, %d GPUs of %d: %w", p.MilliCPU, p.MemoryMiB, p.GPUs, p.MilliGPU, err)
		}
		return node, gpus, why, err
	case <-ctx.Done():
		return "", nil, "", context.Cause(ctx)
	case <-s.ctx.Done():
		return "", nil, "", context.Cause(s.ctx)
	}
}

// settle makes the outcome what the API server shows.
func (s *Scheduler) settle(pod *v1.Pod, o outcome) (node string, gpus []int, why string, err error) {
	switch {
	case o.pod != pod.Name:
		return "", nil, "", fmt.Errorf("the scheduler decided about %s, not about %s", o.pod, pod.Name)
	case o.binding == nil && !o.status.IsRejected():
		return "", nil, "", fmt.Errorf("the scheduler failed: %w", o.status.AsError())
	case o.binding == nil:
		return "", nil, o.status.Message(), s.pods.remove(pod)
	}
	bound := pod.DeepCopy()
	bound.ResourceVersion, bound.Spec.NodeName = "2", o.binding.Target.Name
	maps.Copy(bound.Annotations, o.binding.Annotations)
	request, err := podspec.Request(bound)
	if err != nil {
		return "", nil, "", err
	}
	assignment, err := podspec.Assignment(bound, request)
	if err != nil {
		return "", nil, "", err
	}
	for _, use := range assignment.Uses() {
		gpus = append(gpus, s.devices[use.GPU])
	}
	return bound.Spec.NodeName, gpus, "", s.pods.update(pod, bound)
}
