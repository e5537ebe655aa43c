package playground

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/podspec"
)

// Placement is who holds what, as the API server shows it.
type Placement struct {
	// Nodes are those with GPUs, by name.
	Nodes []NodePlacement
	// Capacity and Granted are in milli-GPU, MIG instances by their compute slices.
	Capacity, Granted int64
}

// NodePlacement is a node of a Placement.
type NodePlacement struct {
	Name string
	GPUs []GPUPlacement
}

// GPUPlacement is a GPU of a Placement.
type GPUPlacement struct {
	Device  gpu.Device
	Holders []Holder
}

// Holder is a pod's part of a GPU.
type Holder struct {
	Pod string
	Use gpu.Use
}

// ReadPlacement reads nodes, their inventory and the pods that are bound, and checks that nothing is given twice. When
// something is, or when an assignment names what is not there, the Placement comes with an error that names every case.
func ReadPlacement(ctx context.Context, cfg *rest.Config) (*Placement, error) {
	client, err := typedClient(cfg)
	if err != nil {
		return nil, err
	}
	published, err := client.ResourceV1().ResourceSlices().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	ofNode := map[string][]*resourcev1.ResourceSlice{}
	for i := range published.Items {
		if s := &published.Items[i]; s.Spec.NodeName != nil {
			ofNode[*s.Spec.NodeName] = append(ofNode[*s.Spec.NodeName], s)
		}
	}
	devicesOf := map[string][]gpu.Device{}
	for i := range nodes.Items {
		n := &nodes.Items[i]
		devicesOf[n.Name] = inventory.Of(n, inventory.FromSlices(ofNode[n.Name])).Devices
	}
	return newPlacement(devicesOf, pods.Items)
}

// newPlacement joins devices and pods.
func newPlacement(devicesOf map[string][]gpu.Device, pods []corev1.Pod) (*Placement, error) {
	p := &Placement{}
	where := map[string]*GPUPlacement{}
	key := func(node string, id gpu.ID) string { return node + "/" + string(id) }
	for name, all := range devicesOf {
		if len(all) == 0 {
			continue
		}
		n := NodePlacement{Name: name, GPUs: make([]GPUPlacement, len(all))}
		for i, d := range all {
			n.GPUs[i].Device = d
			where[key(name, d.ID)] = &n.GPUs[i]
			p.Capacity += gpu.WholeMilliGPU
		}
		slices.SortFunc(n.GPUs, func(a, b GPUPlacement) int { return cmp.Compare(a.Device.Index, b.Device.Index) })
		// Sorting moved what the map points to.
		for i := range n.GPUs {
			where[key(name, n.GPUs[i].Device.ID)] = &n.GPUs[i]
		}
		p.Nodes = append(p.Nodes, n)
	}
	slices.SortFunc(p.Nodes, func(a, b NodePlacement) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	var errs []error
	for i := range pods {
		pod := &pods[i]
		if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		a, err := gpu.ParseAssignment(pod.Annotations[podspec.AnnotationGPUs])
		if err != nil {
			errs = append(errs, fmt.Errorf("pod %s: %w", pod.Name, err))
			continue
		}
		if want, err := podspec.Request(pod); err == nil && !want.Empty() && a.Empty() {
			errs = append(errs, fmt.Errorf("pod %s asks for GPUs and is bound to %s without an assignment", pod.Name, pod.Spec.NodeName))
		}
		p.Granted += granted(a)
		for _, use := range a.Uses() {
			g, ok := where[key(pod.Spec.NodeName, use.GPU)]
			if !ok {
				errs = append(errs, fmt.Errorf("pod %s holds %s, which node %s has not", pod.Name, use.GPU, pod.Spec.NodeName))
				continue
			}
			g.Holders = append(g.Holders, Holder{Pod: pod.Name, Use: use})
		}
	}
	for _, n := range p.Nodes {
		for _, g := range n.GPUs {
			if err := g.check(); err != nil {
				errs = append(errs, fmt.Errorf("node %s, GPU %d (%s): %w", n.Name, g.Device.Index, g.Device.ID, err))
			}
		}
	}
	return p, errors.Join(errs...)
}

// check reports whether the GPU is given out at most once.
func (g *GPUPlacement) check() error {
	var whole, shared, partitioned int
	var milli, memory int64
	var taken []gpu.Instance
	for _, h := range g.Holders {
		if h.Use.Whole {
			whole++
		}
		if h.Use.MilliGPU > 0 {
			shared++
		}
		milli += h.Use.MilliGPU
		memory += h.Use.MemoryMiB
		for _, i := range h.Use.Instances {
			partitioned++
			if !slices.Contains(g.Device.Instances, i) {
				return fmt.Errorf("%s is given, which it does not offer", i)
			}
			for _, other := range taken {
				if i.Overlaps(other) {
					return fmt.Errorf("%s and %s are both given and overlap", other, i)
				}
			}
			taken = append(taken, i)
		}
	}
	switch {
	case whole > 1:
		return fmt.Errorf("it is given whole %d times", whole)
	case whole > 0 && shared > 0:
		return errors.New("it is given whole and shared")
	case g.Device.MIG && whole+shared > 0:
		return errors.New("it is in MIG mode and given whole or shared")
	case !g.Device.MIG && partitioned > 0:
		return errors.New("it is not in MIG mode and MIG instances of it are given")
	case milli > gpu.WholeMilliGPU:
		return fmt.Errorf("%d milli-GPU are given", milli)
	case memory > g.Device.MemoryMiB:
		return fmt.Errorf("%d MiB are given, it has %d", memory, g.Device.MemoryMiB)
	}
	return nil
}
