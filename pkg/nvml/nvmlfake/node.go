package nvmlfake

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

// Node is a node with GPUs as NVML would tell of it.
type Node struct {
	// Name makes the UUIDs of its GPUs different from those of other nodes.
	Name string `json:"name,omitempty"`
	// DriverVersion is by default "580.95.05", CUDAVersion "13.0", NVMLVersion "13." and the driver's.
	DriverVersion string `json:"driverVersion,omitempty"`
	CUDAVersion   string `json:"cudaVersion,omitempty"`
	NVMLVersion   string `json:"nvmlVersion,omitempty"`
	// StartError is what initialising NVML answers, for example "ERROR_DRIVER_NOT_LOADED". Empty: it works.
	StartError Answer `json:"startError,omitempty"`
	// Missing are functions that the driver's library does not have, by their names in C. Those newer than DriverVersion are
	// missing anyway, as far as they are modelled.
	Missing []string `json:"missing,omitempty"`
	// Topology is how the GPUs' NVLinks are wired.
	Topology Topology `json:"topology,omitempty"`
	// Fabric is the NVLink domain that the node is a part of, nil for none.
	Fabric *Fabric `json:"fabric,omitempty"`
	// GPUs are by index.
	GPUs []GPU `json:"gpus,omitempty"`
	// Events have happened, in order. Those that are there when the fake is made are past; what is appended later is delivered.
	Events []Event `json:"events,omitempty"`
}

// Topology is how the NVLinks of a node's GPUs are wired.
type Topology string

const (
	// NoLinks: the GPUs have none, or they are not connected.
	NoLinks Topology = ""
	// NVSwitch: all links of all GPUs lead to switches.
	NVSwitch Topology = "nvswitch"
	// CubeMesh: the hybrid cube mesh of a DGX-1 with eight V100 of six links.
	CubeMesh Topology = "cube-mesh"
	// Pairs: a bridge joins GPU 0 and 1, 2 and 3, and so on, by all links.
	Pairs Topology = "pairs"
)

// Fabric is an NVLink domain that spans nodes.
type Fabric struct {
	// ClusterUUID is as in "e3b0c442-98fc-1c14-9afb-f4c8996fb924", all zeroes for a fabric that ends in the node.
	ClusterUUID string `json:"clusterUUID"`
	CliqueID    uint32 `json:"cliqueID"`
	// State is "completed" (and so when empty), "in-progress", "not-started" or "not-supported".
	State string `json:"state,omitempty"`
	// Status is what the registration came to.
	Status Answer `json:"status,omitempty"`
}

// Event is one that NVML reports.
type Event struct {
	// GPU is its index.
	GPU int `json:"gpu"`
	// Xid is the number of a critical error. 0 makes it an event of another type.
	Xid uint64 `json:"xid,omitempty"`
	// Type is one of nvml.EventType*, by default EventTypeXidCriticalError.
	Type uint64 `json:"type,omitempty"`
	// GPUInstance and ComputeInstance are those that were hit, nil when it was the whole GPU.
	GPUInstance     *uint32 `json:"gpuInstance,omitempty"`
	ComputeInstance *uint32 `json:"computeInstance,omitempty"`
	// Nameless events come without a device.
	Nameless bool `json:"nameless,omitempty"`
}

// GPU is one GPU, with what is wrong with it. Empty fields are as the model has them.
type GPU struct {
	// Model is one of [Models].
	Model    string `json:"model"`
	UUID     string `json:"uuid,omitempty"`
	Name     string `json:"name,omitempty"`
	PCIBusID string `json:"pciBusID,omitempty"`
	Minor    *int   `json:"minor,omitempty"`
	// NUMANode is by default 0 for the first half of the node's GPUs and 1 for the second; -1 for none.
	NUMANode *int `json:"numaNode,omitempty"`
	// MemoryMiB and ReservedMiB are what NVML says of its memory.
	MemoryMiB   *int64 `json:"memoryMiB,omitempty"`
	ReservedMiB *int64 `json:"reservedMiB,omitempty"`

	// Lost says that it fell off the bus.
	Lost bool `json:"lost,omitempty"`
	// Recovery is what the driver wants done, as the number of nvmlDeviceGpuRecoveryAction_t; nil when it does not say.
	Recovery *uint32 `json:"recovery,omitempty"`
	// Answers are errors that methods of nvml.Device answer with, by their names: {"GetMemoryInfo": "ERROR_UNKNOWN"}.
	// "DeviceGetHandleByIndex" is for that method of nvml.Interface.
	Answers map[string]Answer `json:"answers,omitempty"`
	// LinksDown are numbers of NVLinks that are down.
	LinksDown []int `json:"linksDown,omitempty"`
	// Links override where the NVLinks lead: the index of a GPU each, or -1 for a switch.
	Links []int `json:"links,omitempty"`
	// UnknownLinks says that the driver does not tell what kind of device is at the other end of a link.
	UnknownLinks bool `json:"unknownLinks,omitempty"`

	MIG MIG `json:"mig,omitzero"`

	// SMPercent, MemoryBusPercent and PowerMilliwatt are how much it is used.
	SMPercent        uint32 `json:"smPercent,omitempty"`
	MemoryBusPercent uint32 `json:"memoryBusPercent,omitempty"`
	PowerMilliwatt   uint32 `json:"powerMilliwatt,omitempty"`
	// Processes run on it.
	Processes []Process `json:"processes,omitempty"`
}

// MIG is how a GPU is partitioned, and what the driver says wrong of it.
type MIG struct {
	Enabled bool `json:"enabled,omitempty"`
	// Instances exist, each with one compute instance of its full size: "3g.40gb@4", or "3g.40gb@4:4" with the size.
	Instances []string `json:"instances,omitempty"`
	// Incomplete GPU instances exist without a compute instance; Partial ones have a compute instance of one slice.
	Incomplete []string `json:"incomplete,omitempty"`
	Partial    []string `json:"partial,omitempty"`

	// Unchecked lets the instances overlap, lie where they cannot, and be of profiles that there are not.
	Unchecked bool `json:"unchecked,omitempty"`
	// MaxDevices is the largest number of MIG devices that NVML tells.
	MaxDevices *int `json:"maxDevices,omitempty"`
	// Profiles are what the driver says of profiles, by their real names.
	Profiles map[string]ProfileLie `json:"profiles,omitempty"`
	// HiddenWhenOff says that the driver tells profiles only in MIG mode, as for Ampere.
	HiddenWhenOff bool `json:"hiddenWhenOff,omitempty"`
}

// ProfileLie is what the driver says of a profile; nil and empty fields are as they should be.
type ProfileLie struct {
	// Name is what NVML calls it. Without one it gives none.
	Name          string  `json:"name,omitempty"`
	ID            *uint32 `json:"id,omitempty"`
	ComputeSlices *uint32 `json:"computeSlices,omitempty"`
	MemoryMiB     *uint64 `json:"memoryMiB,omitempty"`
	MaxCount      *uint32 `json:"maxCount,omitempty"`
	// Placements are [start, size] each.
	Placements *[][2]uint32 `json:"placements,omitempty"`
}

// Process runs on a GPU.
type Process struct {
	PID uint32 `json:"pid"`
	// MemoryMiB is what it uses, nil when the driver does not say.
	MemoryMiB *uint64 `json:"memoryMiB,omitempty"`
	// Instance is the MIG instance that it runs on, as "3g.40gb@4"; empty outside of MIG mode.
	Instance string `json:"instance,omitempty"`
	// Samples are of its use of the SMs.
	Samples []Sample `json:"samples,omitempty"`
	// Graphics and MPS say in which lists it stands; otherwise it stands in the one of compute processes.
	Graphics bool `json:"graphics,omitempty"`
	MPS      bool `json:"mps,omitempty"`
}

// Sample is one sample of a process.
type Sample struct {
	// At is the driver's clock in microseconds.
	At        uint64 `json:"at"`
	SMPercent uint32 `json:"smPercent"`
}

// Answer is one of NVML's answers by name, such as "ERROR_GPU_IS_LOST". Empty is SUCCESS.
type Answer string

// answers are all of NVML's by name.
var answers = func() map[Answer]nvml.Return {
	all := map[Answer]nvml.Return{"": nvml.SUCCESS}
	for _, ret := range append(slices.Collect(func(yield func(nvml.Return) bool) {
		for ret := nvml.SUCCESS; ret <= nvml.ERROR_RESET_TYPE_NOT_SUPPORTED && yield(ret); ret++ {
		}
	}), nvml.ERROR_UNKNOWN) {
		all[Answer(ret.Error())] = ret
	}
	return all
}()

func (a Answer) ret() nvml.Return { return answers[a] }

// Bounds of a description.
const (
	maxGPUs      = 256
	maxLinks     = 36
	maxMIG       = 64
	maxMemoryMiB = 1 << 30
)

// Validate says what is wrong with the description, joined.
func (n Node) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(n.GPUs) > maxGPUs {
		bad("%d GPUs: want at most %d", len(n.GPUs), maxGPUs)
	}
	if _, ok := answers[n.StartError]; !ok {
		bad("startError %q: want one of NVML's, such as ERROR_DRIVER_NOT_LOADED", n.StartError)
	}
	if _, err := cudaVersion(n.CUDAVersion); err != nil {
		bad("cudaVersion %q: want one such as 13.0", n.CUDAVersion)
	}
	switch {
	case !slices.Contains([]Topology{NoLinks, NVSwitch, CubeMesh, Pairs}, n.Topology):
		bad("topology %q: want nvswitch, cube-mesh, pairs or nothing", n.Topology)
	case n.Topology == CubeMesh && len(n.GPUs) != len(cubeMesh):
		bad("topology %q with %d GPUs: want %d", n.Topology, len(n.GPUs), len(cubeMesh))
	}
	if n.Fabric != nil {
		if _, err := n.Fabric.info(); err != nil {
			errs = append(errs, err)
		}
	}
	for i, g := range n.GPUs {
		if err := g.validate(len(n.GPUs)); err != nil {
			bad("GPU %d: %w", i, err)
		}
	}
	for i, e := range n.Events {
		if e.GPU < 0 || e.GPU >= len(n.GPUs) {
			bad("event %d: GPU %d: want 0 to %d", i, e.GPU, len(n.GPUs)-1)
		}
	}
	return errors.Join(errs...)
}

func (g GPU) validate(gpus int) error {
	m, ok := Models[g.Model]
	if !ok {
		return fmt.Errorf("model %q: there is none such", g.Model)
	}
	for name, a := range g.Answers {
		if _, ok := answers[a]; !ok {
			return fmt.Errorf("answer %q of %s: want one of NVML's, such as ERROR_UNKNOWN", a, name)
		}
	}
	for _, mib := range []*int64{g.MemoryMiB, g.ReservedMiB} {
		if mib != nil && (*mib < 0 || *mib > maxMemoryMiB) {
			return fmt.Errorf("%d MiB: want 0 to %d", *mib, maxMemoryMiB)
		}
	}
	if g.NUMANode != nil && (*g.NUMANode < -1 || *g.NUMANode > 1023) {
		return fmt.Errorf("NUMA node %d: want -1 to 1023", *g.NUMANode)
	}
	if len(g.PCIBusID) > 31 {
		return fmt.Errorf("pciBusID %q: want at most 31 characters", g.PCIBusID)
	}
	if len(g.Links) > maxLinks || slices.ContainsFunc(g.Links, func(to int) bool { return to < -1 || to >= gpus }) {
		return fmt.Errorf("links %v: want at most %d, to -1 or 0 to %d", g.Links, maxLinks, gpus-1)
	}
	if m.mig == "" && (g.MIG.Enabled || len(g.MIG.Instances)+len(g.MIG.Incomplete)+len(g.MIG.Partial) > 0) {
		return fmt.Errorf("MIG on a %s, which has none", g.Model)
	}
	_, err := g.instances()
	return err
}

// instances are the GPU instances that are described.
func (g GPU) instances() ([]*gpuInstanceState, error) {
	var all []*gpuInstanceState
	table, _ := mig.TableByName(Models[g.Model].mig)
	lists := [][]string{g.MIG.Instances, g.MIG.Incomplete, g.MIG.Partial}
	for kind, list := range lists {
		for _, s := range list {
			i, err := parseInstance(s, table)
			if err != nil {
				return nil, err
			}
			if !g.MIG.Unchecked {
				if !g.MIG.Enabled {
					return nil, fmt.Errorf("MIG instance %s: MIG is not enabled", s)
				}
				if ret := fits(table, i, all); ret != nvml.SUCCESS {
					return nil, fmt.Errorf("MIG instance %s: no room for it (%s)", s, ret)
				}
			}
			if len(all) == maxMIG {
				return nil, fmt.Errorf("more than %d MIG instances", maxMIG)
			}
			state := &gpuInstanceState{Instance: i, id: uint32(len(all) + 1)}
			slicesOf := mig.ComputeSlices(i.Profile)
			switch kind {
			case 0:
				state.compute = []*computeInstanceState{{slices: uint32(slicesOf)}}
			case 2:
				state.compute = []*computeInstanceState{{slices: 1}}
			}
			all = append(all, state)
		}
	}
	return all, nil
}

// parseInstance reads "3g.40gb@4" or "3g.40gb@4:4". Without a size the table has to have the profile.
func parseInstance(s string, table mig.Table) (gpu.Instance, error) {
	profile, at, ok := strings.Cut(s, "@")
	start, size, sized := strings.Cut(at, ":")
	i := gpu.Instance{Profile: profile}
	var err error
	if ok {
		i.Start, err = strconv.Atoi(start)
	}
	switch p, known := table.Profile(profile); {
	case sized && err == nil:
		i.Size, err = strconv.Atoi(size)
	case known:
		i.Size = p.Size
	default:
		ok = false
	}
	if !ok || err != nil {
		return gpu.Instance{}, fmt.Errorf("MIG instance %q: want profile@start or profile@start:size, with a profile of the GPU", s)
	}
	return i, i.Validate()
}

// fits is NVML's answer to making an instance beside others.
func fits(table mig.Table, i gpu.Instance, others []*gpuInstanceState) nvml.Return {
	p, ok := table.Profile(i.Profile)
	if !ok || i.Size != p.Size || !slices.Contains(p.Starts, i.Start) {
		return nvml.ERROR_INVALID_ARGUMENT
	}
	same := 0
	for _, o := range others {
		if o.Overlaps(i) {
			return nvml.ERROR_INSUFFICIENT_RESOURCES
		}
		if o.Profile == i.Profile {
			same++
		}
	}
	if same >= p.Max {
		return nvml.ERROR_INSUFFICIENT_RESOURCES
	}
	return nvml.SUCCESS
}

// info is what NVML says of the fabric.
func (f Fabric) info() (nvml.GpuFabricInfo, error) {
	states := map[string]uint8{
		"": nvml.GPU_FABRIC_STATE_COMPLETED, "completed": nvml.GPU_FABRIC_STATE_COMPLETED, "in-progress": nvml.GPU_FABRIC_STATE_IN_PROGRESS,
		"not-started": nvml.GPU_FABRIC_STATE_NOT_STARTED, "not-supported": nvml.GPU_FABRIC_STATE_NOT_SUPPORTED,
	}
	state, ok := states[f.State]
	status, known := answers[f.Status]
	hex := strings.ReplaceAll(f.ClusterUUID, "-", "")
	info := nvml.GpuFabricInfo{CliqueId: f.CliqueID, State: state, Status: uint32(status)}
	for i := 0; ok && i < len(info.ClusterUuid); i++ {
		if len(hex) != 2*len(info.ClusterUuid) {
			ok = false
			break
		}
		b, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		if err != nil {
			ok = false
		}
		info.ClusterUuid[i] = uint8(b)
	}
	if !ok || !known {
		return info, fmt.Errorf("fabric %+v: want a UUID, a state such as completed and one of NVML's answers", f)
	}
	return info, nil
}

// cudaVersion is NVML's number of a version: 13000 for "13.0".
func cudaVersion(s string) (int, error) {
	if s == "" {
		return 13000, nil
	}
	a, b, _ := strings.Cut(s, ".")
	major, err := strconv.ParseUint(a, 10, 8)
	minor, err2 := strconv.ParseUint(b, 10, 8)
	if err != nil || err2 != nil || minor > 99 {
		return 0, errors.New("no version")
	}
	return int(major)*1000 + int(minor)*10, nil
}

// uuid makes the same UUID of the same words.
func uuid(prefix string, words ...string) string {
	h := sha256.Sum256([]byte(strings.Join(words, "/")))
	return fmt.Sprintf("%s-%x-%x-%x-%x-%x", prefix, h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}
