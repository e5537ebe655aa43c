package compat

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/version"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
)

func TestUnwanted(t *testing.T) {
	const gate = "NominatedNodeNameForExpectation"
	for name, tt := range map[string]struct {
		emulate string
		user    map[string]bool
		want    []featuregate.Feature
	}{
		"it is off in 1.34 already":          {"1.34", nil, nil},
		"it is on from 1.35":                 {"1.35", nil, []featuregate.Feature{gate}},
		"and in 1.37":                        {"1.37", nil, []featuregate.Feature{gate}},
		"the user wants it":                  {"1.37", map[string]bool{gate: true}, nil},
		"the user switched it off":           {"1.37", map[string]bool{gate: false}, nil},
		"what else the user says is no word": {"1.37", map[string]bool{"OpportunisticBatching": false}, []featuregate.Feature{gate}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Unwanted(utilfeature.DefaultMutableFeatureGate, version.MustParse(tt.emulate), tt.user)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) == 0 {
				got = nil
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
