package compat

import (
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-base/featuregate"
	"k8s.io/kubernetes/pkg/features"
)

// podGroups are the native ones, in the version that the scheduler of [Newest] reads.
var podGroups = resource("scheduling.k8s.io", "v1beta1", "podgroups")

// wanted are gates that are on where the API server serves native PodGroups: the first so that the pods of one are scheduled
// together, the second so that a plugin is asked where.
var wanted = []featuregate.Feature{features.GenericWorkload, features.TopologyAwareWorkloadScheduling}

// Wanted returns the gates to switch on, which are off by default: the API server serves native PodGroups by choice of whoever
// runs it, and there is nothing else that a scheduler could do with them. None is returned where the emulated release does not
// know one, and none that the user has set, directly or by AllAlpha or AllBeta; without the first none of the others.
func Wanted(gates featuregate.MutableVersionedFeatureGate, v *version.Version, user map[string]bool, served Served) ([]featuregate.Feature, error) {
	if !served.Has(podGroups) || v.LessThan(Newest) {
		return nil, nil
	}
	emulated, err := emulating(gates, v, user)
	if err != nil {
		return nil, err
	}
	specs := emulated.GetAll()
	var on []featuregate.Feature
	for _, g := range wanted {
		spec, known := specs[g]
		switch {
		case !known:
			return nil, nil
		case emulated.Enabled(g):
			continue
		case refusedByUser(g, spec, user):
			return on, nil
		}
		on = append(on, g)
	}
	return on, nil
}

// refusedByUser reports whether the user has said that the gate, which is off, is to be off.
func refusedByUser(g featuregate.Feature, spec featuregate.FeatureSpec, user map[string]bool) bool {
	_, named := user[string(g)]
	_, alpha := user["AllAlpha"]
	_, beta := user["AllBeta"]
	return named || alpha && spec.PreRelease == featuregate.Alpha || beta && spec.PreRelease == featuregate.Beta
}
