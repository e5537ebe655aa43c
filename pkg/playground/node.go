package playground

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/podspec"
)

// Node is a simulated node.
type Node struct {
	Name         string
	InstanceType string
	CPUMilli     int64
	MemoryMiB    int64
	// Devices are the GPUs by index, none for a node without GPUs. All are of one model.
	Devices []gpu.Device
	// LabelsOnly nodes publish no ResourceSlices.
	LabelsOnly bool
	// Rack is the value of the node label topology.kubernetes.io/rack; empty for none.
	Rack string
}

// labelRack is a topology level that the scheduler knows if nobody configures others.
const labelRack = "topology.kubernetes.io/rack"

const (
	// maxPods is above what the CPUs of any node here carry, so that it never decides.
	maxPods = 500
	// percentPerGPU is what a GPU is worth in weft.sh/gpu-percent.
	percentPerGPU = 100
)

// deviceID is a GPU's UUID: always the same for the same node and index, and different everywhere else.
func deviceID(node string, index int) gpu.ID {
	sum := sha256.Sum256([]byte(node + "/" + strconv.Itoa(index)))
	h := hex.EncodeToString(sum[:16])
	return gpu.ID("GPU-" + h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:])
}

// Object is the node as its kubelet and NVIDIA's GPU Feature Discovery would have registered it, for KWOK to make ready.
func (n Node) Object() *corev1.Node {
	capacity := corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(n.CPUMilli, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(n.MemoryMiB<<20, resource.BinarySI),
		corev1.ResourcePods:   *resource.NewQuantity(maxPods, resource.DecimalSI),
	}
	maps.Copy(capacity, n.gpuResources())
	labels := map[string]string{
		corev1.LabelHostname:           n.Name,
		corev1.LabelOSStable:           "linux",
		corev1.LabelArchStable:         "amd64",
		corev1.LabelInstanceTypeStable: n.InstanceType,
	}
	if n.Rack != "" {
		labels[labelRack] = n.Rack
	}
	if len(n.Devices) > 0 {
		labels["nvidia.com/gpu.present"] = "true"
		labels[podspec.LabelProduct] = n.Devices[0].Product
		labels[podspec.LabelCount] = strconv.Itoa(len(n.Devices))
		labels[podspec.LabelMemory] = strconv.FormatInt(n.Devices[0].MemoryMiB, 10)
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:        n.Name,
			Labels:      labels,
			Annotations: map[string]string{kwokAnnotation: kwokAnnotationValue},
		},
		Status: corev1.NodeStatus{Capacity: capacity, Allocatable: capacity},
	}
}

// gpuResources is what the device plugins would advertise: the GPUs that are not in MIG mode, whole and in hundredths, and
// of each MIG profile as many as could exist at once. These overlap; which GPU is what is the scheduler's to keep apart.
func (n Node) gpuResources() corev1.ResourceList {
	var whole, shared int64
	instances := map[string]int64{}
	for _, d := range n.Devices {
		if d.MIG {
			for profile, most := range atOnce(d) {
				instances[profile] += most
			}
			continue
		}
		if !d.SharedOnly {
			whole++
		}
		if !d.WholeOnly && !n.LabelsOnly {
			shared++
		}
	}
	list := corev1.ResourceList{}
	add := func(name string, count int64) {
		if count > 0 {
			list[corev1.ResourceName(name)] = *resource.NewQuantity(count, resource.DecimalSI)
		}
	}
	add(podspec.ResourceGPU, whole)
	add(podspec.ResourceGPUPercent, shared*percentPerGPU)
	for profile, count := range instances {
		add(podspec.MIGResource(profile), count)
	}
	return list
}

// atOnce is how many instances of each profile the GPU could have at one time.
func atOnce(d gpu.Device) map[string]int64 {
	most := map[string]int64{}
	table, known := mig.TableByProduct(d.Product)
	for _, i := range d.Instances {
		if p, ok := table.Profile(i.Profile); known && ok {
			most[i.Profile] = int64(p.Max)
		} else {
			most[i.Profile]++
		}
	}
	return most
}

// Slices is the inventory that the node's agent would publish; owner is the node as the API server has it. None for a
// node without GPUs or with labels only.
func (n Node) Slices(owner *corev1.Node) []*resourcev1.ResourceSlice {
	if len(n.Devices) == 0 || n.LabelsOnly {
		return nil
	}
	all := inventory.Slices(n.Name, n.Devices, 1)
	for _, s := range all {
		s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: owner.Name, UID: owner.UID}}
	}
	return all
}

// MilliGPU is the node's GPUs in milli-GPU.
func (n Node) MilliGPU() int64 { return int64(len(n.Devices)) * gpu.WholeMilliGPU }

// validate reports what makes the node's GPUs unusable.
func (n Node) validate() error {
	for _, d := range n.Devices {
		if err := d.Validate(); err != nil {
			return fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	return nil
}
