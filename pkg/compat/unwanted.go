package compat

import (
	"slices"

	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-base/featuregate"
	"k8s.io/kubernetes/pkg/features"
)

// unwanted are gates that are better off whatever the server serves.
//
// NominatedNodeNameForExpectation writes a pod's node into its status while it waits at Permit: a write for each member of a
// gang, which waits there for a moment only.
var unwanted = []featuregate.Feature{features.NominatedNodeNameForExpectation}

// Unwanted returns the gates to switch off that would be on when v is emulated. What the user set stays, and so does a gate that
// cannot be changed or that another one which is on depends on.
func Unwanted(gates featuregate.MutableVersionedFeatureGate, v *version.Version, user map[string]bool) ([]featuregate.Feature, error) {
	emulated, err := emulating(gates, v, user)
	if err != nil {
		return nil, err
	}
	specs := emulated.GetAll()
	return slices.DeleteFunc(slices.Clone(unwanted), func(g featuregate.Feature) bool {
		_, set := user[string(g)]
		return set || !emulated.Enabled(g) || specs[g].LockToDefault || len(dependents(g, emulated)) > 1
	}), nil
}
