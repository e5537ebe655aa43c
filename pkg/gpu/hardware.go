package gpu

// Hardware is what a node reports of a GPU besides what [Device] says: where it sits and what it is wired to. The zero
// value of a field means that it is not known, except where the field says otherwise.
type Hardware struct {
	// PCIBusID is domain:bus:device.function in lower case, as Linux names it: "0000:65:00.0".
	PCIBusID string
	// NUMANode is the node's NUMA node that the GPU is attached to, -1 when there is none or it is not known.
	NUMANode int
	// Architecture is NVIDIA's name in lower case, such as "hopper".
	Architecture string
	// ComputeCapability is CUDA's, such as "9.0".
	ComputeCapability string
	// Links are the NVLinks that are up.
	Links Links
	// Clique is the fabric clique of an NVLink domain that spans nodes, "<cluster UUID>.<clique number>", as in the node label
	// nvidia.com/gpu.clique. Empty where the NVLinks, if any, end in the node.
	Clique string
}

// Links counts the active NVLinks of one GPU by where they lead.
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
