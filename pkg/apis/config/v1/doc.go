// +k8s:deepcopy-gen=package
// +k8s:defaulter-gen=TypeMeta
// +k8s:conversion-gen=weft.sh/weft/pkg/apis/config
// +groupName=config.weft.sh

// Package v1 holds the arguments of the scheduler plugins as people write them in a KubeSchedulerConfiguration, with
// apiVersion config.weft.sh/v1. What is left out has the default that the field's comment gives.
package v1
