// Package scheme reads the arguments of the scheduler plugins as they come out of a KubeSchedulerConfiguration.
package scheme

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"weft.sh/weft/pkg/apis/config"
	"weft.sh/weft/pkg/apis/config/v1"
	"weft.sh/weft/pkg/apis/config/validation"
)

var (
	// Scheme knows every version of the arguments.
	Scheme = runtime.NewScheme()
	// codecs refuses fields that it does not know, so that a misspelt one is not silently the default.
	codecs = serializer.NewCodecFactory(Scheme, serializer.EnableStrict)
)

func init() {
	utilruntime.Must(config.AddToScheme(Scheme))
	utilruntime.Must(v1.AddToScheme(Scheme))
	utilruntime.Must(Scheme.SetVersionPriority(v1.SchemeGroupVersion))
}

// GPUFitArgs reads the arguments of plugin GPUFit: defaulted, converted and valid. The object is what the framework hands
// to a plugin: nil when the file says nothing, a *runtime.Unknown with the file's text, or the arguments themselves.
// apiVersion and kind may be left out of the text.
func GPUFitArgs(obj runtime.Object) (*config.GPUFitArgs, error) {
	path := field.NewPath("pluginConfig").Key("GPUFit").Child("args")
	var args *config.GPUFitArgs
	switch o := obj.(type) {
	case *config.GPUFitArgs:
		args = o.DeepCopy()
	case nil, *runtime.Unknown:
		raw := []byte("{}")
		if u, ok := o.(*runtime.Unknown); ok && len(u.Raw) > 0 {
			raw = u.Raw
		}
		gvk := v1.SchemeGroupVersion.WithKind("GPUFitArgs")
		decoded, _, err := codecs.UniversalDecoder().Decode(raw, &gvk, nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		var ok bool
		if args, ok = decoded.(*config.GPUFitArgs); !ok {
			return nil, fmt.Errorf("%s: want kind GPUFitArgs, got %T", path, decoded)
		}
	default:
		return nil, fmt.Errorf("%s: want GPUFitArgs, got %T", path, obj)
	}
	return args, validation.ValidateGPUFitArgs(path, args).ToAggregate()
}
