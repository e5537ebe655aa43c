package compat

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/version"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/compatibility"
	"k8s.io/component-base/featuregate"
	baseversion "k8s.io/component-base/version"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"
)

// servedBy returns what a server of the release serves by default of the APIs that matter here.
func servedBy(minor int) Served {
	served := sets.New[schema.GroupVersionResource]()
	for _, w := range watches() {
		if len(w.gates) == 0 {
			served.Insert(w.resource)
		}
	}
	if minor >= 34 {
		served.Insert(resourceAPIs()...)
	}
	for _, mark := range releaseMarks() {
		if int(mark.since.Minor()) <= minor {
			served.Insert(mark.resource)
		}
	}
	return served
}

// resourceAPIs are the resources of resource.k8s.io/v1 as it was in 1.34.
func resourceAPIs() []schema.GroupVersionResource {
	return []schema.GroupVersionResource{
		resource("resource.k8s.io", "v1", "resourceclaims"),
		resource("resource.k8s.io", "v1", "resourceslices"),
		resource("resource.k8s.io", "v1", "deviceclasses"),
	}
}

var (
	taintRules = resource("resource.k8s.io", "v1", "devicetaintrules")
	capacities = resource("storage.k8s.io", "v1", "csistoragecapacities")
	podsAPI    = resource("", "v1", "pods")
)

func release(minor int) apimachineryversion.Info {
	return apimachineryversion.Info{
		Major: "1", Minor: fmt.Sprint(minor), EmulationMajor: "1", EmulationMinor: fmt.Sprint(minor),
		GitVersion: fmt.Sprintf("v1.%d.2", minor),
	}
}

func TestDecide(t *testing.T) {
	// Gates that depend on DynamicResourceAllocation and are on by default in 1.34.
	draOffIn134 := []string{
		"DRAAdminAccess", "DRAPrioritizedList", "DRASchedulerFilterTimeout", "DynamicResourceAllocation",
	}

	tests := map[string]struct {
		in          Input
		wantEmulate string
		wantOff     []string
		// wantWarnings are words that the warnings hold, one string for each warning, in order.
		wantWarnings []string
	}{
		"the release of the libraries needs nothing": {
			in:          Input{Version: release(37), Served: servedBy(37)},
			wantEmulate: "1.37",
		},
		"1.34 is emulated": {
			in:          Input{Version: release(34), Served: servedBy(34)},
			wantEmulate: "1.34",
		},
		"1.35 is emulated": {
			in:          Input{Version: release(35), Served: servedBy(35)},
			wantEmulate: "1.35",
		},
		"1.36 is emulated": {
			in:          Input{Version: release(36), Served: servedBy(36)},
			wantEmulate: "1.36",
		},
		"a server one minor newer is treated as ours": {
			in:           Input{Version: release(38), Served: servedBy(37)},
			wantEmulate:  "1.37",
			wantWarnings: []string{"newer than the scheduler's 1.37"},
		},
		"a server that emulates an older release counts as that": {
			in: Input{
				Version: apimachineryversion.Info{Major: "1", Minor: "37", EmulationMajor: "1", EmulationMinor: "35", GitVersion: "v1.37.0"},
				Served:  servedBy(35),
			},
			wantEmulate: "1.35",
		},
		"a distribution's plus after the minor is ignored": {
			in:          Input{Version: apimachineryversion.Info{Major: "1", Minor: "36+", GitVersion: "custom"}, Served: servedBy(37)},
			wantEmulate: "1.36",
		},
		"a build without version flags is known by its numbers": {
			in: Input{
				Version: apimachineryversion.Info{Major: "1", Minor: "36", GitVersion: "v0.0.0-master+$Format:%H$"},
				Served:  servedBy(36),
			},
			wantEmulate: "1.36",
		},
		"numbers of zero leave the version string": {
			in:          Input{Version: apimachineryversion.Info{Major: "0", Minor: "0", GitVersion: "v1.35.4"}, Served: servedBy(35)},
			wantEmulate: "1.35",
		},
		"without any version the newest API tells 1.37": {
			in:          Input{Version: apimachineryversion.Info{GitVersion: "v0.0.0-master+$Format:%H$"}, Served: servedBy(37)},
			wantEmulate: "1.37",
		},
		"without any version and with resource.k8s.io/v1 off, another API tells 1.37, and 1.34 is emulated": {
			in: Input{
				Version: apimachineryversion.Info{GitVersion: "v0.0.0-master+$Format:%H$"},
				Served:  servedBy(37).Delete(append(resourceAPIs(), taintRules)...),
			},
			wantEmulate:  "1.34",
			wantOff:      draOffIn134,
			wantWarnings: []string{"locked on in 1.37", "deviceclasses.v1.resource.k8s.io"},
		},
		"without any version an API tells 1.36": {
			in:          Input{Served: servedBy(36)},
			wantEmulate: "1.36",
		},
		"without any version or telling API it counts as the oldest": {
			in:          Input{Served: servedBy(35)},
			wantEmulate: "1.34",
		},
		"a gate that is not locked is switched off where its API is missing": {
			in:           Input{Version: release(37), Served: servedBy(37).Delete(taintRules)},
			wantEmulate:  "1.37",
			wantOff:      []string{"DRADeviceTaintRules"},
			wantWarnings: []string{"devicetaintrules.v1.resource.k8s.io"},
		},
		"1.37 with resource.k8s.io/v1 off: the gate is locked from 1.35, so 1.34 is emulated": {
			in:           Input{Version: release(37), Served: servedBy(37).Delete(append(resourceAPIs(), taintRules)...)},
			wantEmulate:  "1.34",
			wantOff:      draOffIn134,
			wantWarnings: []string{"locked on in 1.37", "deviceclasses.v1.resource.k8s.io"},
		},
		"1.34 with resource.k8s.io/v1 off: the gate and what depends on it are off": {
			in:           Input{Version: release(34), Served: servedBy(34).Delete(resourceAPIs()...)},
			wantEmulate:  "1.34",
			wantOff:      draOffIn134,
			wantWarnings: []string{"deviceclasses.v1.resource.k8s.io"},
		},
		"what the user switched off already is not forced again": {
			in: Input{
				Version: release(34), Served: servedBy(34).Delete(resourceAPIs()...),
				UserGates: map[string]bool{
					"DynamicResourceAllocation": false, "DRAAdminAccess": false, "DRAPrioritizedList": false, "DRASchedulerFilterTimeout": false,
				},
			},
			wantEmulate: "1.34",
		},
		"AllBeta is no wish for a certain gate": {
			in:           Input{Version: release(37), Served: servedBy(37), UserGates: map[string]bool{"AllBeta": true}},
			wantEmulate:  "1.37",
			wantOff:      []string{"CoordinatedLeaderElection", "DRAWorkloadResourceClaims", "GenericWorkload"},
			wantWarnings: []string{"podgroups.v1beta1.scheduling.k8s.io, leasecandidates.v1beta1.coordination.k8s.io"},
		},
		"native PodGroups stay on where they are served": {
			in: Input{
				Version: release(37), Served: servedBy(37).Insert(podGroups),
				UserGates: map[string]bool{"GenericWorkload": true},
			},
			wantEmulate: "1.37",
		},
		"the user's release wins, and gates make it work": {
			in:           Input{Version: release(34), Served: servedBy(34), Emulate: version.MajorMinor(1, 37)},
			wantEmulate:  "1.37",
			wantOff:      []string{"DRADeviceTaintRules"},
			wantWarnings: []string{"--emulated-version asks for 1.37", "devicetaintrules.v1.resource.k8s.io"},
		},
		"the user's release lets an unsupported server be tried": {
			in:           Input{Version: release(40), Served: servedBy(37), Emulate: version.MajorMinor(1, 36)},
			wantEmulate:  "1.36",
			wantWarnings: []string{"--emulated-version asks for 1.36"},
		},
		"the user's release is what would be emulated anyway": {
			in:          Input{Version: release(38), Served: servedBy(37), Emulate: version.MajorMinor(1, 37)},
			wantEmulate: "1.37",
		},
		"an API that only unused plugins watch may be missing": {
			in: Input{
				Version: release(37), Served: servedBy(37).Delete(capacities),
				UnusedPlugins: sets.New(names.VolumeBinding),
			},
			wantEmulate: "1.37",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.in.Gates = utilfeature.DefaultMutableFeatureGate
			got, err := Decide(tt.in)
			if err != nil {
				t.Fatalf("Decide: %v", err)
			}
			if got.Emulate.String() != tt.wantEmulate {
				t.Errorf("emulates %s, want %s (server %s: %s)", got.Emulate, tt.wantEmulate, got.Server, got.Evidence)
			}
			var off []string
			for _, gate := range got.Off {
				off = append(off, string(gate))
			}
			if diff := cmp.Diff(tt.wantOff, off); diff != "" {
				t.Errorf("gates off (-want +got):\n%s", diff)
			}
			if len(got.Warnings) != len(tt.wantWarnings) {
				t.Fatalf("%d warnings, want %d: %q", len(got.Warnings), len(tt.wantWarnings), got.Warnings)
			}
			for i, want := range tt.wantWarnings {
				if !strings.Contains(got.Warnings[i], want) {
					t.Errorf("warning %d does not say %q: %s", i, want, got.Warnings[i])
				}
			}
		})
	}
}

func TestDecideRefuses(t *testing.T) {
	tests := map[string]struct {
		in Input
		// want is nil for an error that is not ours.
		want        error
		wantMissing []schema.GroupVersionResource
		wantText    []string
	}{
		"a server older than the oldest": {
			in:       Input{Version: release(33), Served: servedBy(33)},
			want:     ErrUnsupportedServer,
			wantText: []string{"it is 1.33", "want 1.34 to 1.38", "--emulated-version=1.34"},
		},
		"a server two minors newer": {
			in:       Input{Version: release(39), Served: servedBy(37)},
			want:     ErrUnsupportedServer,
			wantText: []string{"it is 1.39", "--emulated-version=1.37"},
		},
		"an API that is always watched is missing": {
			in:          Input{Version: release(37), Served: servedBy(37).Delete(podsAPI)},
			wantMissing: []schema.GroupVersionResource{podsAPI},
			wantText:    []string{"pods.v1 ", "always watches it", "--runtime-config"},
		},
		"an API that a plugin in use watches is missing": {
			in:          Input{Version: release(37), Served: servedBy(37).Delete(capacities), UnusedPlugins: sets.New(names.NodeVolumeLimits)},
			wantMissing: []schema.GroupVersionResource{capacities},
			wantText:    []string{"csistoragecapacities.v1.storage.k8s.io", "disable VolumeBinding under plugins.multiPoint"},
		},
		"a gate that the user asks for has no API": {
			in:          Input{Version: release(37), Served: servedBy(37), UserGates: map[string]bool{"GenericWorkload": true}},
			wantMissing: []schema.GroupVersionResource{podGroups},
			wantText:    []string{"podgroups.v1beta1.scheduling.k8s.io", "--feature-gates=GenericWorkload=true asks for it"},
		},
		"a gate that the user asks for depends on one that has no API": {
			in: Input{
				Version: release(34), Served: servedBy(34).Delete(resourceAPIs()...),
				UserGates: map[string]bool{"DRAAdminAccess": true},
			},
			wantMissing: resourceAPIs(),
			wantText:    []string{"--feature-gates=DRAAdminAccess=true asks for it"},
		},
		"the user's release locks a gate on whose API is missing": {
			in: Input{
				Version: release(37), Served: servedBy(37).Delete(append(resourceAPIs(), taintRules)...),
				Emulate: version.MajorMinor(1, 36),
			},
			wantMissing: resourceAPIs(),
			wantText:    []string{"DynamicResourceAllocation is locked on in 1.36"},
		},
		"the user's gate is unknown": {
			in:       Input{Version: release(37), Served: servedBy(37), UserGates: map[string]bool{"NoSuchGate": true}},
			wantText: []string{"--feature-gates do not go with the emulated release 1.37", "NoSuchGate"},
		},
		"the user's gate is locked, which an older release would not mend": {
			in:       Input{Version: release(37), Served: servedBy(37), UserGates: map[string]bool{"VolumeAttributesClass": false}},
			wantText: []string{"--feature-gates do not go with the emulated release 1.37", "VolumeAttributesClass", "locked"},
		},
		"the user's gate is newer than the server": {
			in:       Input{Version: release(34), Served: servedBy(34), UserGates: map[string]bool{"GenericWorkload": true}},
			wantText: []string{"--feature-gates do not go with the emulated release 1.34", "GenericWorkload"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.in.Gates = utilfeature.DefaultMutableFeatureGate
			got, err := Decide(tt.in)
			if err == nil {
				t.Fatalf("Decide returns %+v, want an error", got)
			}
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("error is not %q: %v", tt.want, err)
			}
			var missing *MissingAPIError
			var resources []schema.GroupVersionResource
			if errors.As(err, &missing) {
				for _, m := range missing.Missing {
					resources = append(resources, m.Resource)
				}
			}
			if diff := cmp.Diff(tt.wantMissing, resources); diff != "" {
				t.Errorf("missing APIs (-want +got):\n%s", diff)
			}
			for _, want := range tt.wantText {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error does not say %q: %v", want, err)
				}
			}
		})
	}
}

// Whatever a server of whatever release serves, and whatever gates a user names: either Decide refuses, or the
// scheduler accepts the flags and waits for no API that is not served.
func TestDecideNeverLeavesAnInformerWithoutItsAPI(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 37))
	known := utilfeature.DefaultMutableFeatureGate.DeepCopy()
	userGates := []featuregate.Feature{
		"AllAlpha", "AllBeta", features.DynamicResourceAllocation, features.DRADeviceTaintRules, features.DRADeviceTaints,
		features.GenericWorkload, features.CompositePodGroup, features.TopologyAwareWorkloadScheduling, features.DRAAdminAccess,
		features.DRAWorkloadResourceClaims,
	}
	optional := []schema.GroupVersionResource{}
	for _, w := range watches() {
		if len(w.gates) > 0 {
			optional = append(optional, w.resource)
		}
	}

	ran, refused := 0, 0
	for range 1500 {
		minor := 34 + random.IntN(5)
		in := Input{Version: release(minor), Served: servedBy(minor), Gates: known, UserGates: map[string]bool{}}
		for _, r := range optional {
			switch random.IntN(4) {
			case 0:
				in.Served.Delete(r)
			case 1:
				in.Served.Insert(r)
			}
		}
		for _, gate := range userGates {
			if random.IntN(8) == 0 {
				in.UserGates[string(gate)] = random.IntN(2) == 0
			}
		}
		if random.IntN(4) == 0 {
			in.Emulate = version.MajorMinor(1, uint(34+random.IntN(4)))
		}
		got, err := Decide(in)
		if err != nil {
			refused++
			continue
		}
		ran++
		checkDecision(t, in, got)
	}
	if ran < 300 || refused < 300 {
		t.Errorf("%d decisions and %d refusals: the inputs do not exercise both", ran, refused)
	}
	if !known.Enabled(features.DynamicResourceAllocation) {
		t.Error("the gates of the input have been changed")
	}
}

// checkDecision applies a decision as the flags would be, and asks every informer.
func checkDecision(t *testing.T, in Input, got Decision) {
	t.Helper()
	if in.Emulate != nil && !in.Emulate.EqualTo(got.Emulate) {
		t.Errorf("emulates %s, the user wants %s", got.Emulate, in.Emulate)
	}
	settings := map[string]bool{}
	maps.Copy(settings, in.UserGates)
	for _, gate := range got.Off {
		if _, named := in.UserGates[string(gate)]; named {
			t.Errorf("gate %s is forced off though the user set it: %v", gate, in.UserGates)
		}
		settings[string(gate)] = false
	}
	gates, err := emulating(in.Gates, got.Emulate, settings)
	if err != nil {
		t.Errorf("the scheduler refuses the flags %v: %v", settings, err)
		return
	}
	for _, w := range watches() {
		if w.startedWith(gates, in.UnusedPlugins) && !in.Served.Has(w.resource) {
			t.Errorf("release %s, gates %v: the scheduler waits for %s, which is not served", got.Emulate, settings, w)
		}
	}
}

// Gates are tried as the registry of component-base would set them.
func TestEmulatingIsWhatTheRegistryDoes(t *testing.T) {
	for v := Newest; !v.LessThan(Oldest); v = v.SubtractMinor(1) {
		registered := compatibility.NewEffectiveVersion(Newest, false, Oldest, Oldest)
		registered.SetEmulationVersion(v)
		got, err := emulating(utilfeature.DefaultMutableFeatureGate, v, nil)
		if err != nil {
			t.Fatalf("emulating %s: %v", v, err)
		}
		if !got.EmulationVersion().EqualTo(registered.EmulationVersion()) || !got.MinCompatibilityVersion().EqualTo(registered.MinCompatibilityVersion()) {
			t.Errorf("the gates emulate %s, compatible with %s; want %s", got.EmulationVersion(), got.MinCompatibilityVersion(), registered)
		}
	}
}

// The limits are those of the libraries: a new release of them needs new limits, and a new look at watches.
func TestReleasesAreThoseOfTheLibraries(t *testing.T) {
	if got := version.MustParse(baseversion.DefaultKubeBinaryVersion); !got.EqualTo(Newest) {
		t.Errorf("Newest is %s, the libraries are %s: read watches off them anew", Newest, got)
	}
	oldest := compatibility.NewEffectiveVersion(Newest, false, Newest.SubtractMinor(3), Newest.SubtractMinor(3))
	oldest.SetEmulationVersion(Oldest)
	if errs := oldest.Validate(); len(errs) > 0 {
		t.Errorf("Oldest cannot be emulated: %v", errs)
	}
}
