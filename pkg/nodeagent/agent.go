package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/deviceplugin"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/handout"
	"weft.sh/weft/pkg/handout/nodepods"
	"weft.sh/weft/pkg/metering"
	"weft.sh/weft/pkg/nodeagent/mps"
	"weft.sh/weft/pkg/nvml"
	"weft.sh/weft/pkg/slot"
)

const (
	// goodbye bounds what is done after the agent was told to stop, each of: withdrawing what it published, and the end of its parts.
	goodbye = 3 * time.Second
	// collectEvery is how often what nobody holds any more is looked for when no pod changes, collectPause the least time between.
	collectEvery = 30 * time.Second
	collectPause = time.Second
)

// Run is a node's agent until ctx ends, which is no error. It returns within seconds after that.
func Run(ctx context.Context, c Config) error {
	if err := c.validate(); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("--listen is %q: %w", c.Listen, err)
	}
	defer listener.Close()
	if err := os.MkdirAll(c.Paths.State, 0o700); err != nil {
		return fmt.Errorf("--state-dir is %q: %w", c.Paths.State, err)
	}
	a, err := newAgent(ctx, c)
	if err != nil {
		return err
	}
	defer a.kubelet.Close()
	klog.FromContext(ctx).Info("Starting", "version", version(), "node", c.NodeName, "mode", c.Mode, "sharedGPUs", c.SharedGPUs,
		"http", listener.Addr())
	return a.run(ctx, listener)
}

// agent is the parts of a node agent.
type agent struct {
	Config
	board    *board
	driver   *driver
	hardware *hardware
	pods     *nodepods.Pods
	runs     containers
	kubelet  *deviceplugin.Kubelet
	handout  *handout.Handout
	manager  *deviceplugin.Manager
	meter    *metering.Meter
	registry metrics.KubeRegistry
}

func newAgent(ctx context.Context, c Config) (*agent, error) {
	a := &agent{Config: c, board: &board{}}
	a.hardware = newHardware(c, a.board)
	a.driver = a.hardware.driver
	var err error
	if a.pods, err = nodepods.New(c.Client, c.NodeName, func() map[string]bool { return metering.RunningPods("") }); err != nil {
		return nil, err
	}
	if a.runs, err = newContainers(c.Client, c.NodeName); err != nil {
		return nil, err
	}
	if a.kubelet, err = deviceplugin.NewKubelet(c.Paths.checkpoint(), c.Paths.podResources()); err != nil {
		return nil, err
	}
	a.handout, err = handout.Open(ctx, handout.Options{
		Node:           c.NodeName,
		CheckpointPath: filepath.Join(c.Paths.State, "book.json"),
		CDIDir:         c.Paths.CDI,
		Kubelet:        a.kubelet.Claims,
		Pods:           a.pods,
		Inventory:      a.inventory,
		Edits:          a.driver.edits,
		MPSRoot:        c.MPSRoot,
	})
	if err != nil {
		return nil, err
	}
	a.pods.Keep(a.handout.Book())
	a.manager = deviceplugin.NewManager(deviceplugin.Options{Dir: c.Paths.DevicePlugins, Handler: a.handout})
	a.meter = metering.New(metering.Options{
		Node: c.NodeName, Book: a.handout.Book, Inventory: a.inventory, Containers: a.runs.names,
		Hardware: func() (metering.Library, nvml.Host) {
			state, _ := a.board.look()
			if lib := a.driver.library(); lib != nil && state != nil {
				return lib, state.Host
			}
			return nil, nvml.Host{}
		},
	})
	a.registry = metrics.NewKubeRegistry()
	a.registry.CustomMustRegister(a.meter.Collector())
	return a, nil
}

func (a *agent) inventory() cluster.Inventory {
	state, _ := a.board.look()
	if state == nil {
		return cluster.Inventory{}
	}
	return cluster.NewInventory(cluster.SourceSlices, state.Devices)
}

// run runs the parts and ends them in an order in which nobody is promised what cannot be kept: first nothing more is published, so
// that the scheduler sends no more pods, then nothing more is given out, and then everything ends.
func (a *agent) run(ctx context.Context, listener net.Listener) error {
	log := klog.FromContext(ctx)
	// The parts live on after ctx, for a little.
	work, fail := context.WithCancelCause(context.WithoutCancel(ctx))
	defer fail(nil)
	var all sync.WaitGroup
	part := func(ctx context.Context, run func(context.Context) error) {
		all.Go(func() {
			if err := run(ctx); err != nil {
				fail(err)
			}
		})
	}
	quiet := func(run func(context.Context)) func(context.Context) error {
		return func(ctx context.Context) error { run(ctx); return nil }
	}

	part(work, func(ctx context.Context) error {
		return pages{
			alive: a.hardware.alive, ready: a.ready, allocations: func() any { return a.meter.Allocations() },
			metrics: prometheus.Gatherers{legacyregistry.DefaultGatherer, a.registry},
		}.serve(ctx, listener)
	})
	part(work, quiet(a.hardware.run))
	part(work, quiet(a.pods.Run))
	part(work, quiet(a.runs.RunWithContext))
	part(work, quiet(a.meter.Run))
	part(work, quiet(a.collect))
	part(work, quiet(a.offer))
	part(work, a.manager.Run)
	broadcaster := record.NewBroadcaster(record.WithContext(work))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&corev1.EventSinkImpl{Interface: a.Client.CoreV1().Events("")})
	news := &announcer{
		board: a.board, registered: a.manager.Ready,
		recorder: broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: fieldManager, Host: a.NodeName}),
		// The kubelet's events on the Node have its name for a UID, and kubectl describe node looks for that.
		node: &v1.ObjectReference{Kind: "Node", Name: a.NodeName, UID: types.UID(a.NodeName)},
	}
	part(work, quiet(news.run))
	part(work, quiet(news.watchKubelet))

	publishing, stopPublishing := context.WithCancel(work)
	defer stopPublishing()
	published := make(chan func(context.Context), 1)
	part(publishing, func(ctx context.Context) error {
		withdraw, err := a.publish(ctx)
		published <- withdraw
		return err
	})

	select {
	case <-ctx.Done():
		log.Info("Stopping")
	case <-work.Done():
	}
	cause := context.Cause(work) // nil when told to stop
	stopPublishing()
	if withdraw := <-published; withdraw != nil {
		farewell, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
		defer cancel()
		withdraw(farewell)
	}
	fail(nil)
	ended := make(chan struct{})
	go func() { defer close(ended); all.Wait() }()
	select {
	case <-ended:
	case <-time.After(goodbye):
		// NVML can hang for ever; whoever ends the process ends that, too.
		log.Info("Not everything has ended in time; ending all the same", "within", goodbye)
	}
	return cause
}

// publish tells the API server what GPUs the node has, until ctx ends or the Node is gone. It returns what takes that back, nil when
// nothing was told.
func (a *agent) publish(ctx context.Context) (withdraw func(context.Context), err error) {
	node, err := awaitNode(ctx, a.Client, a.NodeName, 5*time.Second)
	if err != nil {
		return nil, nil //nolint:nilerr // ctx has ended
	}
	slices := &publisher{client: a.Client, node: node, board: a.board, syncDelay: time.Second, served: time.Minute}
	labels := &labeller{client: a.Client, node: node, board: a.board, relabelled: make(chan struct{}, 1), retry: 10 * time.Second}
	watch := &nodeWatch{client: a.Client, node: node, relabelled: func() { poke(labels.relabelled) }}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() { slices.run(ctx) })
	if a.Mode == ModeAll {
		all.Go(func() { labels.run(ctx) })
	} else if err := labels.withdraw(ctx); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Labels of the node may be left from another mode")
	}
	err = watch.run(ctx)
	cancel()
	all.Wait()
	return func(ctx context.Context) {
		errs := []error{slices.withdraw(ctx)}
		if a.Mode == ModeAll && !errors.Is(err, errNodeReplaced) {
			errs = append(errs, labels.withdraw(ctx))
		}
		if err := errors.Join(errs...); err != nil {
			klog.FromContext(ctx).Error(err, "What the node has could not be taken back from the API server")
		}
	}, err
}

// ready is nil when pods can get GPUs.
func (a *agent) ready() error {
	state, _ := a.board.look()
	switch {
	case state == nil:
		return errors.New("the GPUs have not been looked for yet")
	case state.Unavailable != nil:
		return state.Unavailable
	}
	if _, all := a.pods.Snapshot(); !all {
		return errors.New("the pods of the node are not known yet")
	}
	return a.manager.Ready()
}

// offer tells the device plugins what there is to give, and which of it is well, until ctx ends.
func (a *agent) offer(ctx context.Context) {
	for {
		state, stateChanged := a.board.look()
		bookChanged := a.handout.Changed()
		if state != nil {
			a.manager.Set(offers(state.Devices, a.handout.Book(), a.Mode == ModeFractions))
		}
		select {
		case <-stateChanged:
		case <-bookChanged:
		case <-ctx.Done():
			return
		}
	}
}

// offers is the slots of a node and whether they are healthy.
func offers(devices []gpu.Device, book slot.Book, onlyShares bool) map[slot.Resource]map[string]bool {
	out := map[slot.Resource]map[string]bool{}
	for _, o := range slot.Offers(devices, onlyShares) {
		out[o.Resource] = book.States(o, devices, onlyShares)
	}
	// What containers hold although there is no more of it: a kubelet that starts fails pods whose devices nobody offers.
	for _, r := range book.Records {
		if _, ok := out[r.Resource]; !ok {
			out[r.Resource] = book.States(slot.Offer{Resource: r.Resource}, devices, onlyShares)
		}
	}
	return out
}

// collect releases what pods no longer hold, until ctx ends.
func (a *agent) collect(ctx context.Context) {
	log := klog.FromContext(ctx)
	for {
		changed := a.pods.Changed()
		released, err := a.handout.Collect(ctx)
		if err != nil && ctx.Err() == nil {
			log.Error(err, "What pods no longer hold could not all be released; trying again")
		}
		a.tellReleased(ctx, released)
		pause(ctx, collectPause) // pods change often
		timer := time.NewTimer(collectEvery - collectPause)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// tellReleased logs what each container had, and how much that was.
func (a *agent) tellReleased(ctx context.Context, released []slot.Record) {
	if len(released) == 0 {
		return
	}
	log := klog.FromContext(ctx)
	type holder struct{ uid, container string }
	ended := map[holder]bool{}
	for _, r := range released {
		if r.Holder == nil {
			log.Info("Released slots that no container has started with", "device", r.Name, "slots", r.Slots, "allocated", r.Allocated)
			continue
		}
		ended[holder{r.Holder.UID, r.Holder.Container}] = true
	}
	for _, m := range a.meter.Allocations().Allocations {
		if m.To != nil && ended[holder{m.UID, m.Container}] {
			log.Info("Released", "pod", klog.KRef(m.Namespace, m.Pod), "uid", m.UID, "container", m.Container, "gpu", m.GPU, "instance", m.Instance,
				"milliGPU", m.MilliGPU, "from", m.From, "to", *m.To, "milliGPUSeconds", m.MilliGPUMilliseconds/1000)
		}
	}
}

// mpsReady says of a GPU that its MPS control daemon is ready; nil when there are none.
func mpsReady(root string) func(gpu.ID) bool {
	if root == "" {
		return nil
	}
	return func(id gpu.ID) bool { return mps.Ready(root, id) }
}

// poke sends unless something was sent already that nobody has received.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
