package inventory

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	resourceapi "k8s.io/api/resource/v1"

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
	attrReason     = "unhealthyReason"
	attrWholeOnly  = "wholeOnly"
	attrSharedOnly = "sharedOnly"
	attrMIGMode    = "migMode"
	attrIsolation  = "isolation"
	capMemory      = "memory"

	attrPCIBusID     = "pciBusID"
	attrNUMANode     = "numaNode"
	attrArchitecture = "architecture"
	attrCapability   = "computeCapability"
	attrDriver       = "driverVersion"
	attrCUDA         = "cudaVersion"
	attrSwitchLinks  = "nvlinkSwitchLinks"
	attrPeerLinks    = "nvlinkPeers"
	attrClique       = "cliqueID"

	attrParentUUID = "parentUUID"
	attrProfile    = "profile"
	attrStart      = "start"
	attrSize       = "size"

	typeGPU = "gpu"
	typeMIG = "mig"
)

const mebibyte = 1 << 20

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
			Unhealthy: !a.bool(attrHealthy, true), UnhealthyReason: a.optional(attrReason),
			WholeOnly: a.bool(attrWholeOnly, false), SharedOnly: a.bool(attrSharedOnly, false), MIG: a.bool(attrMIGMode, false),
			Isolation: gpu.Isolation(a.optional(attrIsolation)), Hardware: a.hardware(),
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
