package devicemanager

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	apisgrpc "k8s.io/kubernetes/pkg/kubelet/apis/grpc"
	"k8s.io/kubernetes/pkg/kubelet/apis/podresources"
	"k8s.io/kubernetes/pkg/kubelet/cm/containermap"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/config"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"

	"google.golang.org/grpc"

	"weft.sh/weft/pkg/deviceplugin"
	"weft.sh/weft/pkg/slot"
)

const (
	podResourcesSocket = "/var/lib/kubelet/pod-resources/kubelet.sock"
	checkpointFile     = pluginapi.DevicePluginPath + "kubelet_internal_checkpoint"
)

// pods is what a kubelet knows of the pods of its node.
type pods interface {
	// active are the pods that are not over.
	active() []*v1.Pod
}

// kubelet is the device manager and the PodResources server of one run of a kubelet.
type kubelet struct {
	devices *devicemanager.ManagerImpl
	server  *grpc.Server
	// ready says that it has heard of all pods.
	ready atomic.Bool
}

// running is a container that runs while a kubelet starts.
type running struct{ uid, container string }

// startKubelet starts a kubelet over what the one before left. It has not heard of all pods before ready is set.
func startKubelet(t testing.TB, p pods, containers []running) *kubelet {
	t.Helper()
	logger := klog.Background()
	topology, err := topologymanager.NewManager(logger, nil, topologymanager.PolicyNone, "container", nil)
	if err != nil {
		t.Fatal(err)
	}
	k := &kubelet{}
	if k.devices, err = devicemanager.NewManagerImpl(logger, nil, topology); err != nil {
		t.Fatal(err)
	}
	ids, known := sets.New[string](), containermap.NewContainerMap()
	for i, c := range containers {
		id := fmt.Sprintf("container-%d", i)
		ids.Insert(id)
		known.Add(c.uid, c.container, id)
	}
	sources := config.NewSourcesReady(func(sets.Set[string]) bool { return k.ready.Load() })
	if err := k.devices.Start(logger, p.active, sources, known, ids); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	k.server = grpc.NewServer(apisgrpc.WithRateLimiter(ctx, "podresources", podresources.DefaultQPS, podresources.DefaultBurstTokens))
	view := podResourcesView{pods: p, devices: k.devices}
	podresourcesapi.RegisterPodResourcesListerServer(k.server, podresources.NewV1PodResourcesServer(ctx, podresources.PodResourcesProviders{
		Pods: view, Devices: view, Cpus: view, Memory: view, DynamicResources: view,
	}))
	if err := os.MkdirAll(filepath.Dir(podResourcesSocket), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(podResourcesSocket); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", podResourcesSocket)
	if err != nil {
		t.Fatal(err)
	}
	go k.server.Serve(listener)
	return k
}

// stop ends the kubelet. What it wrote down stays.
func (k *kubelet) stop(t testing.TB) {
	t.Helper()
	k.server.Stop()
	if err := k.devices.Stop(klog.Background()); err != nil {
		t.Error(err)
	}
}

// admit gives the pod its devices, as the kubelet does when it first hears of a pod and again after it was restarted: init
// containers first. An error is the end of the pod.
func (k *kubelet) admit(pod *v1.Pod) error {
	for _, c := range append(append([]v1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...) {
		if err := k.devices.Allocate(context.Background(), pod, &c, lifecycle.AddOperation); err != nil {
			return fmt.Errorf("container %s: %w", c.Name, err)
		}
	}
	return nil
}

// start is what happens before a container is made: the names of the CDI devices that the runtime is asked for. With an error the
// kubelet tries again later.
func (k *kubelet) start(pod *v1.Pod, container string) ([]string, error) {
	for _, c := range append(append([]v1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...) {
		if c.Name != container {
			continue
		}
		options, err := k.devices.GetDeviceRunContainerOptions(context.Background(), pod, &c)
		if err != nil {
			return nil, err
		}
		var names []string
		if options != nil {
			for _, d := range options.CDIDevices {
				names = append(names, d.Name)
			}
		}
		return names, nil
	}
	return nil, fmt.Errorf("pod %s has no container %s", pod.Name, container)
}

// counts is how many devices of the resource the node reports, and how many of them can be used.
func (k *kubelet) counts(resource string) (capacity, allocatable int64) {
	all, usable, _ := k.devices.GetCapacity(klog.Background())
	c, a := all[v1.ResourceName(resource)], usable[v1.ResourceName(resource)]
	return c.Value(), a.Value()
}

// rewriteCheckpoint makes the kubelet write its checkpoint: it is told of slots that it knows.
func (k *kubelet) rewriteCheckpoint(r slot.Resource, slots map[string]bool) {
	answer := &pluginapi.ListAndWatchResponse{}
	for id, healthy := range slots {
		d := &pluginapi.Device{ID: id, Health: pluginapi.Unhealthy}
		if healthy {
			d.Health = pluginapi.Healthy
		}
		answer.Devices = append(answer.Devices, d)
	}
	k.devices.PluginListAndWatchReceiver(klog.Background(), deviceplugin.ResourceName(r), answer)
}

// podResourcesView is what the PodResources server shows, from a device manager, as the kubelet's container manager does.
type podResourcesView struct {
	pods    pods
	devices *devicemanager.ManagerImpl
}

func (v podResourcesView) GetActivePods() []*v1.Pod { return v.pods.active() }

func (v podResourcesView) GetPods() []*v1.Pod { return v.pods.active() }

func (v podResourcesView) GetPodByName(namespace, name string) (*v1.Pod, bool) {
	for _, p := range v.pods.active() {
		if p.Namespace == namespace && p.Name == name {
			return p, true
		}
	}
	return nil, false
}

func (v podResourcesView) UpdateAllocatedDevices(logger klog.Logger) {
	v.devices.UpdateAllocatedDevices(logger)
}

func (v podResourcesView) GetDevices(uid, container string) []*podresourcesapi.ContainerDevices {
	return oneByOne(v.devices.GetDevices(uid, container))
}

func (v podResourcesView) GetAllocatableDevices(logger klog.Logger) []*podresourcesapi.ContainerDevices {
	return oneByOne(v.devices.GetAllocatableDevices(logger))
}

// oneByOne is devices as the kubelet lists them: each by itself.
func oneByOne(all devicemanager.ResourceDeviceInstances) []*podresourcesapi.ContainerDevices {
	var out []*podresourcesapi.ContainerDevices
	for resource, devices := range all {
		for id := range devices {
			out = append(out, &podresourcesapi.ContainerDevices{ResourceName: resource, DeviceIds: []string{id}})
		}
	}
	return out
}

func (podResourcesView) GetCPUs(*v1.Pod, *v1.Container) []int64 { return nil }

func (podResourcesView) GetPodCPUs(string) []int64 { return nil }

func (podResourcesView) GetAllocatableCPUs() []int64 { return nil }

func (podResourcesView) GetMemory(klog.Logger, *v1.Pod, *v1.Container) []*podresourcesapi.ContainerMemory {
	return nil
}

func (podResourcesView) GetPodMemory(klog.Logger, string) []*podresourcesapi.ContainerMemory {
	return nil
}

func (podResourcesView) GetAllocatableMemory(klog.Logger) []*podresourcesapi.ContainerMemory {
	return nil
}

func (podResourcesView) GetDynamicResources(klog.Logger, *v1.Pod, *v1.Container) []*podresourcesapi.DynamicResource {
	return nil
}

// tidy removes what a kubelet and its plugins left.
func tidy(t testing.TB) {
	t.Helper()
	entries, err := os.ReadDir(pluginapi.DevicePluginPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "weft-") {
			t.Errorf("a socket was left behind: %s", e.Name())
		}
		if err := os.RemoveAll(filepath.Join(pluginapi.DevicePluginPath, e.Name())); err != nil {
			t.Error(err)
		}
	}
}
