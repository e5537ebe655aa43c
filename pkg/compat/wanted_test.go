package compat

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/version"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
)

func TestWanted(t *testing.T) {
	const group, topology = "GenericWorkload", "TopologyAwareWorkloadScheduling"
	both := []featuregate.Feature{group, topology}
	for name, tt := range map[string]struct {
		emulate  string
		unserved bool
		user     map[string]bool
		want     []featuregate.Feature
	}{
		"native PodGroups are served":                  {emulate: "1.37", want: both},
		"they are not":                                 {emulate: "1.37", unserved: true},
		"they are, but an older release is emulated":   {emulate: "1.36"},
		"the oldest release is emulated":               {emulate: "1.34"},
		"the user does not want them":                  {emulate: "1.37", user: map[string]bool{group: false}},
		"the user wants no alpha feature":              {emulate: "1.37", user: map[string]bool{"AllAlpha": false}, want: both[:1]},
		"the user wants no beta feature":               {emulate: "1.37", user: map[string]bool{"AllBeta": false}},
		"the user has switched the first on":           {emulate: "1.37", user: map[string]bool{group: true}, want: both[1:]},
		"the user has switched the first on alone":     {emulate: "1.37", user: map[string]bool{group: true, topology: false}},
		"the user does not want the second":            {emulate: "1.37", user: map[string]bool{topology: false}, want: both[:1]},
		"the user wants every beta feature":            {emulate: "1.37", user: map[string]bool{"AllBeta": true}, want: both[1:]},
		"what else the user says about gates is no no": {emulate: "1.37", user: map[string]bool{"OpportunisticBatching": false}, want: both},
	} {
		t.Run(name, func(t *testing.T) {
			served := servedBy(37).Insert(podGroups)
			if tt.unserved {
				served.Delete(podGroups)
			}
			got, err := Wanted(utilfeature.DefaultMutableFeatureGate, version.MustParse(tt.emulate), tt.user, served)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
