// Package inventory turns what the API server shows into what the scheduler decides on: ResourceSlices and node labels
// into devices, bound pods into what they hold.
//
// # ResourceSlices
//
// A node agent publishes its GPUs as ResourceSlices (resource.k8s.io/v1) of driver gpu.weft.sh, in one pool named after
// the node. The mapping is an interface of the project: other agents may publish the same. Attribute and capacity names
// are without domain, that is, in the driver's.
//
// A device of type gpu is one GPU:
//
//	attribute  type               string   "gpu"
//	attribute  uuid               string   the GPU's id, as nvidia-smi -L prints it: GPU-…
//	attribute  index              int      its number on the node, 0 or more
//	attribute  productName        string   the model, exactly as in the node label nvidia.com/gpu.product
//	attribute  healthy            bool     false takes the GPU out of use; default true
//	attribute  unhealthyReason    string   why, for people
//	attribute  wholeOnly          bool     true when the node does not share it; default false
//	attribute  sharedOnly         bool     true when the node never gives it whole; default false; not with wholeOnly or migMode
//	attribute  migMode            bool     true when it is in MIG mode; default false
//	attribute  isolation          string   what keeps shares of it apart: none, mps or memory
//	attribute  pciBusID           string   as Linux names it: 0000:65:00.0
//	attribute  numaNode           int      the NUMA node that it is attached to
//	attribute  architecture       string   in lower case: hopper
//	attribute  computeCapability  version  9.0.0
//	attribute  driverVersion      version  the kernel driver's, without leading zeros: 615.71.9
//	attribute  cudaVersion        version  the newest CUDA that the driver serves: 12.8.0
//	attribute  nvlinkSwitchLinks  int      NVLinks that are up and lead to switches
//	attribute  nvlinkPeers        string   the GPUs that NVLinks lead to directly, with how many: "1:4,3:2"
//	attribute  cliqueID           string   the fabric clique, as in the node label nvidia.com/gpu.clique
//	capacity   memory                      its memory
//
// Only the first four and the memory are needed. From isolation on nothing is decided by them: they are for people, and what is
// not known is left out.
//
// A device of type mig is one MIG instance that a GPU in MIG mode can give. Instances that overlap are alternatives: an
// agent that partitions on demand publishes every legal placement, one of fixed geometry the instances that exist:
//
//	attribute  type         string  "mig"
//	attribute  parentUUID   string  the uuid of its GPU
//	attribute  profile      string  the profile's name, for example 3g.40gb
//	attribute  start, size  int     the memory slices that it takes, as NVML's placement
//
// Every device carries a taint, gpu.weft.sh/device-plugin with the effect NoSchedule: the node's device plugin hands it out, so
// no ResourceClaim may be given it. Reading does not ask for it.
//
// Of a pool, only the slices of the highest generation count, and only when all of them are there
// (resourceSliceCount): a pool that is incomplete shows no GPUs until it is whole. What is malformed is left out, named
// in [cluster.Inventory].Problems, and never guessed at.
//
// # Labels
//
// A node without such slices may still carry NVIDIA's labels: nvidia.com/gpu.product, .count and .memory (MiB). Its GPUs
// are then gpu-0, gpu-1, … and can be given whole only, for nothing on the node enforces more, and which GPU a container
// gets is NVIDIA's device plugin's choice. If the node's allocatable nvidia.com/gpu is less than the label says (some GPUs
// are in MIG mode or unhealthy), it counts. Nodes whose GPUs that plugin shares (nvidia.com/gpu.sharing-strategy other
// than none) show no GPUs, and neither do nodes that advertise weft.sh/gpu-percent: those have an agent, whose slices are
// missing for the moment, as after a restart of the kubelet.
//
// When a node changes from labels to slices or back, pods on it hold GPUs by names that mean nothing any more. As many
// GPUs are withheld from others until those pods end.
package inventory
