package config

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// GPUFitArgs are the arguments of plugin GPUFit.
type GPUFitArgs struct {
	metav1.TypeMeta

	// Strategy says which placement is best: potential, fragmentation, bestfit or spread.
	Strategy string
	// MixWindow is the number of most recent requests that strategies potential and fragmentation take for typical of
	// those to come, 16 to 100000.
	MixWindow int32
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// GangArgs are the arguments of plugin Gang.
type GangArgs struct {
	metav1.TypeMeta

	// TopologyLevels are the node labels that name groups of nodes, and "nvlink" for NVLink domains, from the narrowest to
	// the widest; at most 16.
	TopologyLevels []string
	// PermitTimeoutSeconds bounds how long the first members of a gang wait for the last, 1 to 900; each member adds 20 ms.
	PermitTimeoutSeconds int32
	// BindRetries is how often a bind that failed is tried again on the same GPUs before the place is given up, 0 to 100.
	BindRetries int32
	// Backfill lets pods that end in time start on what a waiting gang will use.
	Backfill bool
	// AgingSeconds is how long a gang waits, when it cannot be computed when it will start, until what becomes free is kept
	// for it; 0 for never.
	AgingSeconds int32
}
