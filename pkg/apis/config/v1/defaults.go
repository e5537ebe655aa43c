package v1

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podspec"
)

func addDefaultingFuncs(scheme *runtime.Scheme) error { return RegisterDefaults(scheme) }

// SetDefaults_GPUFitArgs fills in what was left out.
func SetDefaults_GPUFitArgs(args *GPUFitArgs) {
	if args.Strategy == nil {
		args.Strategy = ptr.To(fit.PotentialName)
	}
	if args.MixWindow == nil {
		args.MixWindow = ptr.To[int32](2048)
	}
}

// SetDefaults_GangArgs fills in what was left out.
func SetDefaults_GangArgs(args *GangArgs) {
	if args.TopologyLevels == nil {
		args.TopologyLevels = []string{
			gang.LevelNVLink,
			podspec.LabelClique,
			"network.topology.nvidia.com/accelerator",
			"network.topology.nvidia.com/block",
			"network.topology.nvidia.com/spine",
			"network.topology.nvidia.com/datacenter",
			"topology.kubernetes.io/rack",
			"topology.kubernetes.io/zone",
		}
	}
	if args.PermitTimeoutSeconds == nil {
		args.PermitTimeoutSeconds = ptr.To[int32](10)
	}
	if args.BindRetries == nil {
		args.BindRetries = ptr.To[int32](3)
	}
	if args.Backfill == nil {
		args.Backfill = new(true)
	}
	if args.AgingSeconds == nil {
		args.AgingSeconds = ptr.To[int32](600)
	}
}
