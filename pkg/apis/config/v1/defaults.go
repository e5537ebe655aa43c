package v1

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"weft.sh/weft/pkg/fit"
)

func addDefaultingFuncs(scheme *runtime.Scheme) error { return RegisterDefaults(scheme) }

// SetDefaults_GPUFitArgs fills in what was left out.
func SetDefaults_GPUFitArgs(args *GPUFitArgs) {
	if args.Strategy == nil {
		args.Strategy = ptr.To(fit.FragmentationName)
	}
	if args.MixWindow == nil {
		args.MixWindow = ptr.To[int32](2048)
	}
}
