// Package v1alpha1 has the kinds of weft.sh/v1alpha1: Queue, who may use how much, and GPUClass, what it counts.
//
// A number that people write is a quantity (GPUs, GPU-hours, weights, prices); one that programs compute with is an int64 with
// its unit in the name. Package quota decides on values; pkg/queues turns these kinds into them.
//
// +k8s:deepcopy-gen=package
// +groupName=weft.sh
package v1alpha1
