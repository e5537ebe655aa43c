package inventory

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

// Driver is the name under which GPUs are published.
const Driver = "gpu.weft.sh"

// Names of the attributes and capacities; the package comment says what they mean.
const (
	attrType       = "type"
	attrUUID       = "uuid"
	attrIndex      = "index"
	attrProduct    = "productName"
	attrHealthy    = "healthy"
	attrWholeOnly  = "wholeOnly"
	attrMIGMode    = "migMode"
	attrParentUUID = "parentUUID"
	attrProfile    = "profile"
	attrStart      = "start"
	attrSize       = "size"
	capMemory      = "memory"

	typeGPU = "gpu"
	typeMIG = "mig"
)

const mebibyte = 1 << 20

// maxDevicesPerSlice leaves room below the API's limit, which is 128, or 64 where devices carry taints.
const maxDevicesPerSlice = 64

// Slices is the devices of a node as ResourceSlices of one generation, owned by nobody: the caller sets owner references.
// A GPU stands in the same slice as its MIG instances where they fit into one.
func Slices(nodeName string, devices []gpu.Device, generation int64) []*resourceapi.ResourceSlice {
	var chunks [][]resourceapi.Device
	for _, d := range devices {
		group := published(d)
		last := len(chunks) - 1
		if last < 0 || len(chunks[last])+len(group) > maxDevicesPerSlice {
			chunks = append(chunks, nil)
			last++
		}
		chunks[last] = append(chunks[last], group...)
	}
	if len(chunks) == 0 {
		chunks = append(chunks, nil) // an empty pool says that the node has no GPU, now
	}
	out := make([]*resourceapi.ResourceSlice, len(chunks))
	for i, chunk := range chunks {
		out[i] = &resourceapi.ResourceSlice{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%s-%d", nodeName, Driver, i)},
			Spec: resourceapi.ResourceSliceSpec{
				Driver:   Driver,
				NodeName: &nodeName,
				Pool:     resourceapi.ResourcePool{Name: nodeName, Generation: generation, ResourceSliceCount: int64(len(chunks))},
				Devices:  chunk,
			},
		}
	}
	return out
}

func published(d gpu.Device) []resourceapi.Device {
	attrs := map[resourceapi.QualifiedName]resourceapi.DeviceAttribute{
		attrType: str(typeGPU), attrUUID: str(string(d.ID)), attrIndex: integer(d.Index), attrProduct: str(d.Product),
	}
	if d.Unhealthy {
		attrs[attrHealthy] = boolean(false)
	}
	if d.WholeOnly {
		attrs[attrWholeOnly] = boolean(true)
	}
	if d.MIG {
		attrs[attrMIGMode] = boolean(true)
	}
	out := []resourceapi.Device{{
		Name:       fmt.Sprintf("gpu-%d", d.Index),
		Attributes: attrs,
		Capacity: map[resourceapi.QualifiedName]resourceapi.DeviceCapacity{
			capMemory: {Value: *resource.NewQuantity(d.MemoryMiB*mebibyte, resource.BinarySI)},
		},
	}}
	for k, i := range d.Instances {
		if slices.Contains(d.Instances[:k], i) {
			continue
		}
		out = append(out, resourceapi.Device{
			Name: fmt.Sprintf("gpu-%d-%s-%d-%d", d.Index, profileInName.Replace(i.Profile), i.Start, i.Size),
			Attributes: map[resourceapi.QualifiedName]resourceapi.DeviceAttribute{
				attrType: str(typeMIG), attrParentUUID: str(string(d.ID)), attrProfile: str(i.Profile),
				attrStart: integer(i.Start), attrSize: integer(i.Size),
			},
		})
	}
	return out
}

// profileInName writes a profile as a part of a DNS label, every profile differently: there are 1g.24gb+me and 1g.24gb-me.
var profileInName = strings.NewReplacer(".", "-", "-", "--", "+", "---")

func str(s string) resourceapi.DeviceAttribute { return resourceapi.DeviceAttribute{StringValue: &s} }

func boolean(b bool) resourceapi.DeviceAttribute { return resourceapi.DeviceAttribute{BoolValue: &b} }

func integer(i int) resourceapi.DeviceAttribute {
	n := int64(i)
	return resourceapi.DeviceAttribute{IntValue: &n}
}

// FromSlices is what the slices of one node say, in any order. Slices of other drivers are ignored. Without a slice of
// the driver the inventory is the zero one.
func FromSlices(all []*resourceapi.ResourceSlice) cluster.Inventory {
	// In one order, so that the outcome does not depend on that of the arguments, however contradictory they are.
	all = slices.SortedStableFunc(slices.Values(all), func(a, b *resourceapi.ResourceSlice) int {
		return cmp.Or(strings.Compare(a.Spec.Pool.Name, b.Spec.Pool.Name), strings.Compare(a.Name, b.Name))
	})
	pools := map[string][]*resourceapi.ResourceSlice{}
	for _, s := range all {
		if s.Spec.Driver != Driver {
			continue
		}
		pool := pools[s.Spec.Pool.Name]
		if len(pool) > 0 && pool[0].Spec.Pool.Generation != s.Spec.Pool.Generation {
			if pool[0].Spec.Pool.Generation > s.Spec.Pool.Generation {
				continue // superseded
			}
			pool = nil
		}
		pools[s.Spec.Pool.Name] = append(pool, s)
	}
	if len(pools) == 0 {
		return cluster.Inventory{}
	}
	var problems []string
	var devices []resourceapi.Device
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		pool := pools[name]
		want := pool[0].Spec.Pool.ResourceSliceCount
		problem := ""
		if int64(len(pool)) != want {
			problem = fmt.Sprintf("has %d of %d ResourceSlices", len(pool), want)
		} else if slices.ContainsFunc(pool, func(s *resourceapi.ResourceSlice) bool { return s.Spec.Pool.ResourceSliceCount != want }) {
			problem = "has ResourceSlices that disagree on their number"
		}
		if problem != "" {
			problems = append(problems, fmt.Sprintf("pool %q: generation %d %s", name, pool[0].Spec.Pool.Generation, problem))
			continue
		}
		for _, s := range pool {
			devices = append(devices, s.Spec.Devices...)
		}
	}
	slices.SortStableFunc(devices, func(a, b resourceapi.Device) int { return strings.Compare(a.Name, b.Name) })
	parsed, malformed := parseDevices(devices)
	return cluster.NewInventory(cluster.SourceSlices, parsed, append(problems, malformed...)...)
}

// parseDevices reads devices of both types and joins the instances to their GPUs.
func parseDevices(devices []resourceapi.Device) (out []gpu.Device, problems []string) {
	byUUID := map[gpu.ID]int{}
	bad := func(d *resourceapi.Device, err error) {
		problems = append(problems, fmt.Sprintf("device %q is ignored: %v", d.Name, err))
	}
	for i := range devices {
		d := &devices[i]
		a := attributes{device: d}
		if kind := a.string(attrType); kind == typeMIG {
			continue
		} else if kind != typeGPU && a.err == nil {
			a.err = fmt.Errorf("attribute type is %q: want gpu or mig", kind)
		}
		g := gpu.Device{
			ID: gpu.ID(a.string(attrUUID)), Index: a.int(attrIndex), Product: a.string(attrProduct), MemoryMiB: a.memoryMiB(),
			Unhealthy: !a.bool(attrHealthy, true), WholeOnly: a.bool(attrWholeOnly, false), MIG: a.bool(attrMIGMode, false),
		}
		if a.err == nil {
			a.err = g.Validate()
		}
		if a.err != nil {
			bad(d, a.err)
			continue
		}
		// Of several with one id the lowest index will count, see cluster.NewInventory.
		if other, twice := byUUID[g.ID]; !twice || out[other].Index > g.Index {
			byUUID[g.ID] = len(out)
		}
		out = append(out, g)
	}
	for i := range devices {
		d := &devices[i]
		a := attributes{device: d}
		if a.string(attrType) != typeMIG {
			continue
		}
		inst := gpu.Instance{Profile: a.string(attrProfile), Start: a.int(attrStart), Size: a.int(attrSize)}
		parent, ok := byUUID[gpu.ID(a.string(attrParentUUID))]
		switch {
		case a.err != nil:
		case !ok:
			a.err = fmt.Errorf("its GPU %q is not published", a.string(attrParentUUID))
		case !out[parent].MIG:
			a.err = fmt.Errorf("its GPU %q is not in MIG mode", out[parent].ID)
		case slices.Contains(out[parent].Instances, inst):
			a.err = fmt.Errorf("its GPU %q has %s already", out[parent].ID, inst)
		default:
			a.err = inst.Validate()
		}
		if a.err != nil {
			bad(d, a.err)
			continue
		}
		out[parent].Instances = append(out[parent].Instances, inst)
	}
	return out, problems
}

// attributes reads a device; the first thing missing or of the wrong type is kept in err.
type attributes struct {
	device *resourceapi.Device
	err    error
}

func (a *attributes) get(name string, required bool) (resourceapi.DeviceAttribute, bool) {
	v, ok := a.device.Attributes[resourceapi.QualifiedName(name)]
	if !ok {
		v, ok = a.device.Attributes[resourceapi.QualifiedName(Driver+"/"+name)] // the same name, written out
	}
	if !ok && required {
		a.fail(name, "is missing")
	}
	return v, ok
}

func (a *attributes) fail(name, how string) {
	if a.err == nil {
		a.err = fmt.Errorf("attribute %s %s", name, how)
	}
}

func (a *attributes) string(name string) string {
	v, ok := a.get(name, true)
	if ok && v.StringValue == nil {
		a.fail(name, "is not a string")
	}
	if v.StringValue == nil {
		return ""
	}
	return *v.StringValue
}

func (a *attributes) int(name string) int {
	v, ok := a.get(name, true)
	switch {
	case !ok:
		return 0
	case v.IntValue == nil:
		a.fail(name, "is not an int")
		return 0
	case *v.IntValue < 0 || *v.IntValue > gpu.MaxIndex:
		a.fail(name, fmt.Sprintf("is %d: want 0 or more, and no more than any node has", *v.IntValue))
		return 0
	}
	return int(*v.IntValue)
}

func (a *attributes) bool(name string, otherwise bool) bool {
	v, ok := a.get(name, false)
	if !ok {
		return otherwise
	}
	if v.BoolValue == nil {
		a.fail(name, "is not a bool")
		return otherwise
	}
	return *v.BoolValue
}

func (a *attributes) memoryMiB() int64 {
	c, ok := a.device.Capacity[capMemory]
	if !ok {
		c, ok = a.device.Capacity[Driver+"/"+capMemory]
	}
	switch {
	case a.err != nil:
	case !ok:
		a.err = errors.New("capacity memory is missing")
	case c.Value.Cmp(*resource.NewQuantity(gpu.MaxMemoryMiB*mebibyte, resource.BinarySI)) > 0:
		a.err = fmt.Errorf("capacity memory is %s: want what a GPU can have", c.Value.String())
	}
	return c.Value.Value() / mebibyte
}
