package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// SchemeGroupVersion is weft.sh/v1alpha1.
var SchemeGroupVersion = schema.GroupVersion{Group: "weft.sh", Version: "v1alpha1"}

// The resources of the group.
var (
	Queues     = SchemeGroupVersion.WithResource("queues")
	GPUClasses = SchemeGroupVersion.WithResource("gpuclasses")
)

var (
	schemeBuilder = runtime.NewSchemeBuilder(func(s *runtime.Scheme) error {
		s.AddKnownTypes(SchemeGroupVersion, &Queue{}, &QueueList{}, &GPUClass{}, &GPUClassList{})
		metav1.AddToGroupVersion(s, SchemeGroupVersion)
		return nil
	})
	// AddToScheme adds the kinds to a scheme.
	AddToScheme = schemeBuilder.AddToScheme
)
