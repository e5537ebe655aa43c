package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// GPUFitArgs are the arguments of plugin GPUFit.
type GPUFitArgs struct {
	metav1.TypeMeta `json:",inline"`

	// Strategy says which placement is best:
	//
	//   - potential (default): after which the node is worth most to the requests to be expected, see docs/strategy.md;
	//   - fragmentation: after which the least idle capacity is of no use to the requests to be expected;
	//   - bestfit: on the node with the least left, and there on the fullest GPU;
	//   - spread: on the node, and there on the GPU, with the most left.
	Strategy *string `json:"strategy,omitempty"`
	// MixWindow is the number of most recent requests that strategies potential and fragmentation take for typical of
	// those to come, 16 to 100000. Default 2048.
	MixWindow *int32 `json:"mixWindow,omitempty"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// GangArgs are the arguments of plugin Gang.
type GangArgs struct {
	metav1.TypeMeta `json:",inline"`

	// TopologyLevels are the node labels that name groups of nodes, from the narrowest to the widest, and "nvlink" for NVLink
	// domains: the nodes of one fabric clique, or else a node by itself. A PodGroup can require or prefer these levels and no
	// others; at most 16. An empty list is no level at all. Default: nvlink, nvidia.com/gpu.clique, the four labels
	// network.topology.nvidia.com/accelerator, block, spine and datacenter, topology.kubernetes.io/rack and
	// topology.kubernetes.io/zone.
	TopologyLevels []string `json:"topologyLevels"`
	// PermitTimeoutSeconds bounds how long the first members of a gang whose places are reserved wait for the last, 1 to 900.
	// Each member adds 20 ms. When it is over, the gang gives everything back. Default 10.
	PermitTimeoutSeconds *int32 `json:"permitTimeoutSeconds,omitempty"`
	// BindRetries is how often a bind that failed is tried again on the same GPUs before the place is given up, 0 to 100.
	// Default 3.
	BindRetries *int32 `json:"bindRetries,omitempty"`
	// Backfill lets pods that end before a waiting gang can start (by annotation weft.sh/runtime) use what it waits for.
	// Default true.
	Backfill *bool `json:"backfill,omitempty"`
	// AgingSeconds is how long a gang waits, when it cannot be computed when it will start, until what becomes free is kept
	// for it; 0 for never. Default 600.
	AgingSeconds *int32 `json:"agingSeconds,omitempty"`
}
