package v1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// GPUFitArgs are the arguments of plugin GPUFit.
type GPUFitArgs struct {
	metav1.TypeMeta `json:",inline"`

	// Strategy says which placement is best:
	//
	//   - fragmentation (default): after which the least idle capacity is of no use to the requests to be expected;
	//   - bestfit: on the node with the least left, and there on the fullest GPU;
	//   - spread: on the node, and there on the GPU, with the most left.
	Strategy *string `json:"strategy,omitempty"`
	// MixWindow is the number of most recent requests that the fragmentation strategy takes for typical of those to
	// come, 16 to 100000. Default 2048.
	MixWindow *int32 `json:"mixWindow,omitempty"`
}
