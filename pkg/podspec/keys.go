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
