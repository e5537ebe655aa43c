package gpu

import (
	"fmt"
	"regexp"
	"slices"
)

// Hardware is what a node reports of a GPU besides what [Device] says: where it sits, what it is wired to and what drives it.
// The zero value of a field means that it is not known, except where the field says otherwise. A nil *Hardware knows nothing.
type Hardware struct {
	// PCIBusID is domain:bus:device.function in lower case, as Linux names it: "0000:65:00.0".
	PCIBusID string
	// NUMANode is the node's NUMA node that the GPU is attached to, at most [MaxNUMANode]; -1 when there is none or it is not
	// known.
	NUMANode int
	// Architecture is NVIDIA's name in lower case, such as "hopper"; a '-' stands for a blank.
	Architecture string
	// ComputeCapability is CUDA's, such as "9.0".
	ComputeCapability string
	// DriverVersion is the version of the kernel driver, such as "570.86.15", and CUDAVersion the newest CUDA that it serves, such
	// as "12.8". They are the node's, and the same for all its GPUs.
	DriverVersion, CUDAVersion string
	// Links are the NVLinks that are up.
	Links Links
	// Clique is the fabric clique of an NVLink domain that spans nodes, "<cluster UUID>.<clique number>", as in the node label
	// nvidia.com/gpu.clique. Empty where the NVLinks, if any, end in the node.
	Clique string
}

// Links counts the active NVLinks of one GPU by where they lead; [MaxLinks] in all at most.
type Links struct {
	// Switch is the number of links to NVSwitches, through which a GPU reaches every other one of the switches.
	Switch int
	// Peers are the GPUs of the same node that links lead to directly, by index, each once.
	Peers []Peer
}

// Peer is a GPU at the other end of direct links.
type Peer struct {
	// Index is the other GPU's number on the node, as [Device.Index].
	Index int
	// Links is how many lead there, 1 or more.
	Links int
}

const (
	// MaxNUMANode is the largest number of a NUMA node that Linux is built for.
	MaxNUMANode = 1023
	// MaxLinks is the largest number of NVLinks that one GPU can have here; the fifth generation has 18.
	MaxLinks = 64
)

// What the fields of Hardware look like. A clique and an architecture stand in node labels, too.
var (
	pciPattern        = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)
	archPattern       = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	capabilityPattern = regexp.MustCompile(`^[1-9][0-9]{0,2}\.[0-9]{1,2}$`)
	versionPattern    = regexp.MustCompile(`^[0-9]{1,9}(\.[0-9]{1,9}){1,3}$`)
	cliquePattern     = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
)

// faults is what is wrong with the hardware of the GPU of that index.
func (h *Hardware) faults(index int) (errs []error) {
	if h == nil {
		return nil
	}
	for _, f := range []struct {
		name, value string
		pattern     *regexp.Regexp
		want        string
	}{
		{"PCI bus id", h.PCIBusID, pciPattern, "domain:bus:device.function in lower case, such as 0000:65:00.0"},
		{"architecture", h.Architecture, archPattern, "a name in lower case, such as hopper"},
		{"compute capability", h.ComputeCapability, capabilityPattern, "a version such as 9.0"},
		{"driver version", h.DriverVersion, versionPattern, "a version such as 570.86.15"},
		{"CUDA version", h.CUDAVersion, versionPattern, "a version such as 12.8"},
		{"clique", h.Clique, cliquePattern, "at most 63 of A-Z a-z 0-9 . _ -, such as <cluster UUID>.<number>"},
	} {
		if f.value != "" && !f.pattern.MatchString(f.value) {
			errs = append(errs, fmt.Errorf("%s %q: want %s", f.name, clip(f.value), f.want))
		}
	}
	if h.NUMANode < -1 || h.NUMANode > MaxNUMANode {
		errs = append(errs, fmt.Errorf("NUMA node %d: want -1 to %d", h.NUMANode, MaxNUMANode))
	}
	return append(errs, h.Links.faults(index)...)
}

func (l Links) faults(index int) (errs []error) {
	links, counted := l.Switch, l.Switch >= 0 && l.Switch <= MaxLinks
	seen := map[int]bool{index: true}
	for _, p := range l.Peers {
		switch {
		case p.Index < 0 || p.Index > MaxIndex:
			errs = append(errs, fmt.Errorf("NVLink to GPU %d: want 0 to %d", p.Index, MaxIndex))
		case p.Index == index:
			errs = append(errs, fmt.Errorf("NVLink to GPU %d, which is itself", p.Index))
		case seen[p.Index]:
			errs = append(errs, fmt.Errorf("NVLink to GPU %d stands twice", p.Index))
		}
		seen[p.Index] = true
		counted = counted && p.Links >= 1 && p.Links <= MaxLinks-links
		if counted {
			links += p.Links
		}
	}
	if !counted {
		errs = append(errs, fmt.Errorf("%d NVLinks to switches and %v to GPUs: want 1 or more to each GPU, and at most %d in all",
			l.Switch, l.Peers, MaxLinks))
	}
	return errs
}

// known is the hardware, or one that says of everything that it is not known.
func (h *Hardware) known() Hardware {
	if h == nil {
		return Hardware{NUMANode: -1}
	}
	return *h
}

// Equal reports whether the two say the same; nil says as much as a Hardware of which nothing is known.
func (h *Hardware) Equal(o *Hardware) bool {
	if h == o {
		return true
	}
	a, b := h.known(), o.known()
	return a.PCIBusID == b.PCIBusID && a.NUMANode == b.NUMANode && a.Architecture == b.Architecture &&
		a.ComputeCapability == b.ComputeCapability && a.DriverVersion == b.DriverVersion && a.CUDAVersion == b.CUDAVersion &&
		a.Links.Switch == b.Links.Switch && slices.Equal(a.Links.Peers, b.Links.Peers) && a.Clique == b.Clique
}

// Isolation is what the node enforces between containers that share a GPU. It is reported so that nobody is promised more.
type Isolation string

const (
	// IsolationNone: the containers take turns, and each can use all memory of the GPU. Shares are a promise of the scheduler
	// to overcommit nothing, not a fence.
	IsolationNone Isolation = "none"
	// IsolationMPS: CUDA's Multi-Process Service bounds each process's part of the compute units and its pinned memory. An error of
	// one client can end the others.
	IsolationMPS Isolation = "mps"
	// IsolationMemory: the driver bounds the memory of each container's cgroup; compute is in turns. Driver 615 and later.
	IsolationMemory Isolation = "memory"
)
