package config

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// GPUFitArgs are the arguments of plugin GPUFit.
type GPUFitArgs struct {
	metav1.TypeMeta

	// Strategy says which placement is best: fragmentation, bestfit or spread.
	Strategy string
	// MixWindow is the number of most recent requests that the fragmentation strategy takes for typical of those to
	// come, 16 to 100000.
	MixWindow int32
}
