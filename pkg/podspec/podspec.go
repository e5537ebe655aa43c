// Package podspec reads what a pod asks for and holds. It is the one place that knows the keys (resource names,
// annotations, labels); everything behind it speaks in values of package gpu.
//
// A pod is not trusted: whatever cannot be understood is an error with the name of the field, the value found and what is
// accepted, never "asks for nothing".
package podspec

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"weft.sh/weft/pkg/gpu"
)

// InvalidError is a part of a pod that has no meaning.
type InvalidError struct {
	// Field is where, for example `container "main": weft.sh/gpu-percent`.
	Field string
	// Value is what was found.
	Value string
	// Want is what is accepted.
	Want string
}

// Error implements error.
func (e *InvalidError) Error() string {
	return fmt.Sprintf("%s is %q: want %s", e.Field, e.Value, e.Want)
}

// Request is what the pod asks for. Errors are *InvalidError.
func Request(pod *v1.Pod) (gpu.Request, error) {
	count, floor, err := annotations(pod)
	if err != nil {
		return gpu.Request{}, err
	}
	var r gpu.Request
	usesShare, usesFloor := false, false
	err = eachContainer(pod, func(c *v1.Container, init bool) error {
		asks, err := containerAsks(c, count, floor)
		if err != nil || len(asks) == 0 {
			return err
		}
		for _, a := range asks {
			usesShare = usesShare || a.Kind == gpu.Shared
			usesFloor = usesFloor || a.Kind != gpu.MIG
		}
		r.Containers = append(r.Containers, gpu.ContainerRequest{Name: c.Name, Init: init, Asks: asks})
		return nil
	})
	if err != nil {
		return gpu.Request{}, err
	}
	if v, ok := pod.Annotations[AnnotationGPUCount]; ok && !usesShare {
		return gpu.Request{}, &InvalidError{"annotation " + AnnotationGPUCount, v, "a container that asks for " + ResourceGPUPercent + ", or no such annotation"}
	}
	if v, ok := pod.Annotations[AnnotationGPUMemory]; ok && !usesFloor {
		return gpu.Request{}, &InvalidError{"annotation " + AnnotationGPUMemory, v, "a container that asks for " + ResourceGPUPercent + " or " + ResourceGPU + ", or no such annotation"}
	}
	if r.Empty() {
		return r, nil
	}
	if r.Products, err = products(pod); err != nil {
		return gpu.Request{}, err
	}
	return r, nil
}

// eachContainer calls f with the pod's containers in the order in which they start, until it errs. A restartable init
// container is a sidecar: it runs on beside the others and is not init.
func eachContainer(pod *v1.Pod, f func(c *v1.Container, init bool) error) error {
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
		if err := f(c, !sidecar); err != nil {
			return err
		}
	}
	for i := range pod.Spec.Containers {
		if err := f(&pod.Spec.Containers[i], false); err != nil {
			return err
		}
	}
	return nil
}

// Estimate is what a pod may be holding whose Request is an error, for it was bound all the same, by somebody else: its
// resources without its annotations, a GPU for every percentage begun up to 100. What cannot be counted is left out.
func Estimate(pod *v1.Pod) gpu.Request {
	var r gpu.Request
	_ = eachContainer(pod, func(c *v1.Container, init bool) error {
		whole := 0
		var instances []gpu.Ask
		for name, q := range resources(c) {
			count := int(min(max(q.Value(), 0), gpu.MaxCount))
			switch profile := migProfile(name); {
			case name == ResourceGPU:
				whole += count
			case name == ResourceGPUPercent:
				whole += (count + 99) / 100
			case count > 0 && gpu.ValidProfile(profile) && MIGResource(profile) == name:
				instances = append(instances, gpu.Ask{Kind: gpu.MIG, Count: count, Profile: profile})
			}
		}
		var asks []gpu.Ask
		if whole > 0 {
			asks = append(asks, gpu.Ask{Kind: gpu.Whole, Count: min(whole, gpu.MaxCount)})
		}
		if asks = append(asks, instances...); len(asks) > 0 {
			r.Containers = append(r.Containers, gpu.ContainerRequest{Name: c.Name, Init: init, Asks: asks})
		}
		return nil
	})
	return r
}

// resources are the amounts that the container asks for, by the names of the resources, sorted.
func resources(c *v1.Container) iter.Seq2[string, resource.Quantity] {
	amounts := maps.Clone(c.Resources.Limits)
	if amounts == nil {
		amounts = v1.ResourceList{}
	}
	maps.Copy(amounts, c.Resources.Requests)
	return func(yield func(string, resource.Quantity) bool) {
		for _, name := range slices.Sorted(maps.Keys(amounts)) {
			if !yield(string(name), amounts[name]) {
				return
			}
		}
	}
}

// wholeNumber is the quantity if it is a whole number, however it is written (2, 2.0, 2000m).
func wholeNumber(q resource.Quantity) (n int64, ok bool) {
	n = q.Value() // rounded up, and anything when it is too large
	return n, q.Cmp(*resource.NewQuantity(n, resource.DecimalSI)) == 0
}

// PendingRequest is Request for a pod that is not bound yet: it also refuses a pod that comes with an assignment of its own.
func PendingRequest(pod *v1.Pod) (gpu.Request, error) {
	if v, ok := pod.Annotations[AnnotationGPUs]; ok {
		return gpu.Request{}, &InvalidError{"annotation " + AnnotationGPUs, clip(v), "none: only the scheduler writes it, remove it from the pod"}
	}
	return Request(pod)
}

const mebibyte = 1 << 20

// The floors on memory that are accepted; the larger is gpu.MaxMemoryMiB.
var (
	minFloor = *resource.NewQuantity(mebibyte, resource.BinarySI)
	maxFloor = *resource.NewQuantity(gpu.MaxMemoryMiB*mebibyte, resource.BinarySI)
)

// longExponent is that of a quantity which takes seconds to parse, or all memory: 1e99999999 is written out in full.
var longExponent = regexp.MustCompile(`[eE][+-]?0*[1-9][0-9]{2}`)

// parseMemory reads a quantity that anybody can write into a pod.
func parseMemory(s string) (resource.Quantity, bool) {
	if len(s) > 64 || longExponent.MatchString(s) {
		return resource.Quantity{}, false
	}
	q, err := resource.ParseQuantity(s)
	return q, err == nil
}

// annotations reads the count of GPUs per share (1 where there is none) and the floor in MiB (0 where there is none).
func annotations(pod *v1.Pod) (count int, floorMiB int64, err error) {
	count = 1
	if v, ok := pod.Annotations[AnnotationGPUCount]; ok {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > MaxGPUCount || strconv.Itoa(n) != v {
			return 0, 0, &InvalidError{"annotation " + AnnotationGPUCount, clip(v), fmt.Sprintf("a whole number from 1 to %d", MaxGPUCount)}
		}
		count = n
	}
	if v, ok := pod.Annotations[AnnotationGPUMemory]; ok {
		q, ok := parseMemory(v)
		// Less than the unit of the inventory is a forgotten suffix: 10 is ten bytes.
		if !ok || q.Cmp(minFloor) < 0 || q.Cmp(maxFloor) > 0 {
			return 0, 0, &InvalidError{"annotation " + AnnotationGPUMemory, clip(v), "a quantity from 1Mi to 1Pi, such as 10Gi"}
		}
		floorMiB = (q.Value() + mebibyte - 1) / mebibyte // rounded up: it is a floor
	}
	return count, floorMiB, nil
}

// containerAsks is what one container asks for, in the order whole, share, MIG profiles by name.
func containerAsks(c *v1.Container, count int, floorMiB int64) ([]gpu.Ask, error) {
	var asks []gpu.Ask
	var kinds []string
	for name, q := range resources(c) {
		field := fmt.Sprintf("container %q: %s", c.Name, name)
		whole, exact := wholeNumber(q)
		switch {
		case name == ResourceGPUPercent:
			if !exact || whole < 1 || whole > 100 {
				return nil, &InvalidError{field, q.String(), "a whole number from 1 to 100"}
			}
			asks = append(asks, gpu.Ask{Kind: gpu.Shared, Count: count, MilliGPU: whole * 10, MemoryMiB: floorMiB})
		case name == ResourceGPU:
			if !exact || whole < 0 || whole > MaxGPUCount {
				return nil, &InvalidError{field, q.String(), fmt.Sprintf("a whole number from 1 to %d", MaxGPUCount)}
			}
			if whole == 0 {
				continue // asks for none, as with any resource
			}
			asks = append(asks, gpu.Ask{Kind: gpu.Whole, Count: int(whole), MemoryMiB: floorMiB})
		case strings.HasPrefix(name, ResourceMIGPrefix):
			profile := migProfile(name)
			if !gpu.ValidProfile(profile) || MIGResource(profile) != name {
				return nil, &InvalidError{field, q.String(), "a resource named after a MIG profile, such as " + ResourceMIGPrefix + "1g.10gb"}
			}
			if !exact || whole < 0 || whole > gpu.MaxCount {
				return nil, &InvalidError{field, q.String(), fmt.Sprintf("a whole number from 1 to %d", gpu.MaxCount)}
			}
			if whole == 0 {
				continue
			}
			asks = append(asks, gpu.Ask{Kind: gpu.MIG, Count: int(whole), Profile: profile})
		default:
			continue
		}
		kinds = append(kinds, name)
	}
	if len(asks) > 1 && slices.Contains(kinds, ResourceGPUPercent) {
		return nil, &InvalidError{
			fmt.Sprintf("container %q", c.Name), strings.Join(kinds, " and "),
			ResourceGPUPercent + " alone: a container has shares of GPUs or whole GPUs and MIG instances, not both",
		}
	}
	slices.SortFunc(asks, func(a, b gpu.Ask) int {
		if a.Kind != b.Kind {
			return int(a.Kind) - int(b.Kind)
		}
		return strings.Compare(a.Profile, b.Profile)
	})
	return asks, nil
}

// migProfile is the profile that a resource name counts. A resource name has no '+', so NVIDIA writes '.' for it:
// nvidia.com/mig-1g.10gb.me is profile 1g.10gb+me.
func migProfile(name string) string {
	p := strings.TrimPrefix(name, ResourceMIGPrefix)
	base, extension, ok := strings.Cut(p, "gb.")
	if ok {
		return base + "gb+" + extension
	}
	return p
}

// MIGResource is the resource name that counts instances of the profile.
func MIGResource(profile string) string {
	return ResourceMIGPrefix + strings.ReplaceAll(profile, "+", ".")
}

// products are the GPU models that the pod's node selector and required node affinity leave, sorted; nil when they leave
// all, an error when they leave none. Terms of an affinity are alternatives: a term that does not speak of the model
// admits every model. Only In is read; other operators restrict the nodes, which is done elsewhere, but say nothing that
// can be listed.
func products(pod *v1.Pod) ([]string, error) {
	selected, hasSelected := pod.Spec.NodeSelector[LabelProduct]
	admitted := affinityProducts(pod)
	var out []string
	switch {
	case !hasSelected && admitted == nil:
		return nil, nil
	case !hasSelected:
		out = admitted
	case admitted == nil || slices.Contains(admitted, selected):
		out = []string{selected}
	}
	if len(out) == 0 {
		e := &InvalidError{"required node affinity on " + LabelProduct, strings.Join(admitted, ", "), "at least one GPU model that fulfils all of a term"}
		if hasSelected {
			e.Want = fmt.Sprintf("%q among them, which is the node selector", selected)
		}
		return nil, e
	}
	return out, nil
}

// affinityProducts are the models that the terms of the required node affinity admit, sorted and each once; nil when
// they admit all.
func affinityProducts(pod *v1.Pod) []string {
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	union := []string{}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		values := termProducts(term)
		if values == nil {
			return nil
		}
		union = append(union, values...)
	}
	slices.Sort(union)
	return slices.Compact(union)
}

// termProducts are the models that one term admits, nil when it admits all.
func termProducts(term v1.NodeSelectorTerm) []string {
	var out []string
	for _, e := range term.MatchExpressions {
		if e.Key != LabelProduct || e.Operator != v1.NodeSelectorOpIn {
			continue
		}
		if out == nil {
			out = append([]string{}, e.Values...)
		} else {
			out = slices.DeleteFunc(out, func(v string) bool { return !slices.Contains(e.Values, v) })
		}
	}
	return out
}

// ErrNoAssignment is returned for a pod that asks for GPUs and carries no assignment.
var ErrNoAssignment = errors.New("the pod has no annotation " + AnnotationGPUs)

// Assignment is what a bound pod holds. The annotation is believed only as far as it gives the pod what it asks for: the
// same containers, the same number of GPUs, shares and profiles. Otherwise it is an error: ErrNoAssignment, or one that
// wraps gpu.ErrMalformed. A pod that asks for nothing holds nothing, whatever its annotation says.
func Assignment(pod *v1.Pod, r gpu.Request) (gpu.Assignment, error) {
	if r.Empty() {
		return gpu.Assignment{}, nil
	}
	text, ok := pod.Annotations[AnnotationGPUs]
	if !ok {
		return gpu.Assignment{}, ErrNoAssignment
	}
	a, err := gpu.ParseAssignment(text)
	if err != nil {
		return gpu.Assignment{}, err
	}
	if !r.SatisfiedBy(a) {
		return gpu.Assignment{}, fmt.Errorf("%w: %q is not what the pod asks for", gpu.ErrMalformed, clip(text))
	}
	return a, nil
}

// Bound reports whether the pod is on a node and still runs there: what it holds is held.
func Bound(pod *v1.Pod) bool {
	return pod.Spec.NodeName != "" && pod.Status.Phase != v1.PodSucceeded && pod.Status.Phase != v1.PodFailed
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// MilliCPU is the CPU that the pod asks for, in thousandths of a core, as the scheduler counts it.
func MilliCPU(pod *v1.Pod) int64 {
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	return requests.Cpu().MilliValue()
}
