package podspec

// The names that people write in pods and read on nodes. This is the only place that spells them.
const (
	// ResourceGPU counts whole GPUs.
	ResourceGPU = "nvidia.com/gpu"
	// ResourceMIGPrefix and a profile count MIG instances; see [MIGResource].
	ResourceMIGPrefix = "nvidia.com/mig-"
	// ResourceGPUPercent is a share of a GPU in hundredths, 1 to 100.
	ResourceGPUPercent = "weft.sh/gpu-percent"

	// AnnotationGPUCount is the number of distinct GPUs that each container with a share gets, 1 to 64. Default 1.
	AnnotationGPUCount = "weft.sh/gpu-count"
	// AnnotationGPUMemory is a floor on the memory of each share, or of each whole GPU: a quantity such as 10Gi.
	AnnotationGPUMemory = "weft.sh/gpu-memory"
	// AnnotationGPUs is the assignment, in the form of gpu.ParseAssignment. Only the scheduler writes it, in the Binding.
	AnnotationGPUs = "weft.sh/gpus"

	// LabelPodGroup on a pod is the name of its PodGroup of scheduling.x-k8s.io, in the same namespace.
	LabelPodGroup = "scheduling.x-k8s.io/pod-group"
	// AnnotationTopologyRequired and AnnotationTopologyPreferred on a PodGroup name a topology level: a node label key that
	// the scheduler is configured with, or "nvlink". One domain of the required level holds all members; of the preferred
	// one as few as possible are used.
	AnnotationTopologyRequired  = "weft.sh/topology-required"
	AnnotationTopologyPreferred = "weft.sh/topology-preferred"
	// AnnotationOnMemberLost on a PodGroup is "replace" (default) or "restart": what happens when a running member is lost.
	AnnotationOnMemberLost = "weft.sh/on-member-lost"
	// AnnotationOnPartialStart on a PodGroup is "shrink" (default) or "leave": what happens when some members of a gang could be
	// bound and others not.
	AnnotationOnPartialStart = "weft.sh/on-partial-start"
	// AnnotationPartialGrace on a PodGroup is how long it may have fewer than minMember pods bound before those are evicted, a
	// duration such as 30s. Default 60s.
	AnnotationPartialGrace = "weft.sh/partial-grace"
	// AnnotationRuntime on a pod is how long it is expected to run, a duration such as 6h.
	AnnotationRuntime = "weft.sh/runtime"
	// AnnotationCheckpointedAt on a pod is when its work was last saved, in RFC 3339: what it did since is lost if it is
	// evicted.
	AnnotationCheckpointedAt = "weft.sh/checkpointed-at"

	// AnnotationCheckpointBy on a pod is the moment, in RFC 3339, at which it will be evicted because its queue's budget is used up.
	// The controller writes it; a program that reads it through the downward API can save its work in time.
	AnnotationCheckpointBy = "weft.sh/checkpoint-by"
	// LabelQueue on a pod is the name of the Queue that it is charged to.
	LabelQueue = "weft.sh/queue"
	// LabelUser on a pod says who uses it, for reports. Nobody checks it.
	LabelUser = "weft.sh/user"

	// LabelProduct on a node is the model of its GPUs; a pod's node affinity on it chooses the model.
	LabelProduct = "nvidia.com/gpu.product"
	// LabelCount and LabelMemory on a node are the number of its GPUs and the memory of each in MiB.
	LabelCount  = "nvidia.com/gpu.count"
	LabelMemory = "nvidia.com/gpu.memory"
	// LabelSharing on a node is "none" unless NVIDIA's device plugin shares its GPUs. A node agent of ours never sets it to
	// anything else: with another value inventory takes the GPUs for that plugin's.
	LabelSharing = "nvidia.com/gpu.sharing-strategy"

	// What follows on a node is for people and for node affinity, in the words of NVIDIA's GPU feature discovery.

	// LabelFamily is the architecture in lower case, such as "hopper".
	LabelFamily = "nvidia.com/gpu.family"
	// LabelComputeMajor and LabelComputeMinor are the two numbers of CUDA's compute capability.
	LabelComputeMajor = "nvidia.com/gpu.compute.major"
	LabelComputeMinor = "nvidia.com/gpu.compute.minor"
	// LabelDriverVersion is the version of the kernel driver, LabelCUDAVersion that of the newest CUDA which it serves.
	LabelDriverVersion = "nvidia.com/cuda.driver-version.full"
	LabelCUDAVersion   = "nvidia.com/cuda.runtime-version.full"
	// LabelMIGCapable is "true" or "false".
	LabelMIGCapable = "nvidia.com/mig.capable"
	// LabelClique is the fabric clique of an NVLink domain that spans nodes, "<cluster UUID>.<clique number>".
	LabelClique = "nvidia.com/gpu.clique"
)

// MaxGPUCount bounds weft.sh/gpu-count; no node has more GPUs.
const MaxGPUCount = 64
