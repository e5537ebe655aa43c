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
	args, err := read[*config.GPUFitArgs](path, "GPUFitArgs", obj)
	if err != nil {
		return nil, err
	}
	return args, validation.ValidateGPUFitArgs(path, args).ToAggregate()
}

// GangArgs reads the arguments of plugin Gang, as [GPUFitArgs] does those of GPUFit.
func GangArgs(obj runtime.Object) (*config.GangArgs, error) {
	path := field.NewPath("pluginConfig").Key("Gang").Child("args")
	args, err := read[*config.GangArgs](path, "GangArgs", obj)
	if err != nil {
		return nil, err
	}
	return args, validation.ValidateGangArgs(path, args).ToAggregate()
}

// read is the object, or what its text says, defaulted and converted, in the internal form T of the kind. It is the caller's.
func read[T runtime.Object](path *field.Path, kind string, obj runtime.Object) (T, error) {
	var none T
	switch o := obj.(type) {
	case T:
		// A copy of a T is a T.
		return o.DeepCopyObject().(T), nil
	case nil, *runtime.Unknown:
		raw := []byte("{}")
		if u, ok := o.(*runtime.Unknown); ok && len(u.Raw) > 0 {
			raw = u.Raw
		}
		gvk := v1.SchemeGroupVersion.WithKind(kind)
		decoded, _, err := codecs.UniversalDecoder().Decode(raw, &gvk, nil)
		if err != nil {
			return none, fmt.Errorf("%s: %w", path, err)
		}
		args, ok := decoded.(T)
		if !ok {
			return none, fmt.Errorf("%s: want kind %s, got %T", path, kind, decoded)
		}
		return args, nil
	default:
		return none, fmt.Errorf("%s: want %s, got %T", path, kind, obj)
	}
}
