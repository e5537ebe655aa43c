package compat

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/events"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"
)

// The table of watches is what the scheduler of the libraries really lists: real ones, with several gates and profiles,
// are made on a client that records.
func TestWatchesAreThoseOfTheScheduler(t *testing.T) {
	tests := map[string]struct {
		gates featuregatetesting.FeatureOverrides
		// disabled are the plugins that each profile of a configuration file disables.
		disabled [][]string
	}{
		"with the defaults": {},
		"without device taint rules": {
			gates: featuregatetesting.FeatureOverrides{features.DRADeviceTaintRules: false},
		},
		"with every gate that brings an informer": {
			gates: featuregatetesting.FeatureOverrides{
				features.GenericWorkload:                 true,
				features.TopologyAwareWorkloadScheduling: true,
				features.CompositePodGroup:               true,
			},
		},
		"with a file that disables nothing":   {disabled: [][]string{{}}},
		"without PodTopologySpread":           {disabled: [][]string{{names.PodTopologySpread}}},
		"without DefaultPreemption":           {disabled: [][]string{{names.DefaultPreemption}}},
		"without VolumeBinding":               {disabled: [][]string{{names.VolumeBinding}}},
		"without NodeVolumeLimits":            {disabled: [][]string{{names.NodeVolumeLimits}}},
		"without VolumeZone":                  {disabled: [][]string{{names.VolumeZone}}},
		"without VolumeRestrictions":          {disabled: [][]string{{names.VolumeRestrictions}}},
		"with VolumeBinding alone":            {disabled: [][]string{{names.NodeVolumeLimits, names.VolumeZone, names.VolumeRestrictions}}},
		"with NodeVolumeLimits alone":         {disabled: [][]string{{names.VolumeBinding, names.VolumeZone, names.VolumeRestrictions}}},
		"with VolumeZone alone":               {disabled: [][]string{{names.VolumeBinding, names.NodeVolumeLimits, names.VolumeRestrictions}}},
		"with VolumeRestrictions alone":       {disabled: [][]string{{names.VolumeBinding, names.NodeVolumeLimits, names.VolumeZone}}},
		"without VolumeBinding in one of two": {disabled: [][]string{{names.VolumeBinding}, {}}},
		"without any plugin that watches, in two profiles": {disabled: [][]string{
			{names.PodTopologySpread, names.DefaultPreemption, names.VolumeBinding, names.NodeVolumeLimits, names.VolumeZone, names.VolumeRestrictions},
			{names.PodTopologySpread, names.DefaultPreemption, names.VolumeBinding, names.NodeVolumeLimits, names.VolumeZone, names.VolumeRestrictions},
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			featuregatetesting.SetFeatureGatesDuringTest(t, utilfeature.DefaultFeatureGate, tt.gates)
			var schedulerOptions []scheduler.Option
			flags := pflag.NewFlagSet("", pflag.ContinueOnError)
			if len(tt.disabled) > 0 {
				file := writeProfiles(t, tt.disabled)
				flags.String("config", file, "")
				config, err := options.LoadConfigFromFile(klog.Background(), file)
				if err != nil {
					t.Fatalf("load the configuration: %v", err)
				}
				schedulerOptions = append(schedulerOptions, scheduler.WithProfiles(config.Profiles...))
			}
			_, profiles, err := readConfig(flags)
			if err != nil {
				t.Fatalf("readConfig: %v", err)
			}

			var want []string
			for _, w := range watches() {
				// Leader election is not part of the scheduler that is made here.
				if w.resource.Resource != "leasecandidates" && w.startedWith(utilfeature.DefaultFeatureGate, unusedPlugins(profiles)) {
					want = append(want, w.String())
				}
			}
			slices.Sort(want)
			if diff := cmp.Diff(want, listedByScheduler(t, schedulerOptions)); diff != "" {
				t.Errorf("the scheduler lists other resources than the table has (-table +scheduler):\n%s", diff)
			}
		})
	}
}

// writeProfiles writes a configuration file with one profile for each list of plugins to disable.
func writeProfiles(t *testing.T, disabled [][]string) string {
	t.Helper()
	var text strings.Builder
	text.WriteString("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n")
	for i, plugins := range disabled {
		text.WriteString("- schedulerName: weft-" + string(rune('a'+i)) + "\n  plugins:\n    multiPoint:\n      disabled:\n")
		for _, plugin := range plugins {
			text.WriteString("      - name: " + plugin + "\n")
		}
	}
	file := filepath.Join(t.TempDir(), "scheduler.yaml")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// listedByScheduler starts the informers of a scheduler, waits until all have listed, and returns what they list.
func listedByScheduler(t *testing.T, schedulerOptions []scheduler.Option) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	client := fake.NewClientset()
	factory := scheduler.NewInformerFactory(client, 0, nil)
	recorders := func(string) events.EventRecorderLogger { return events.NewFakeRecorder(1) }
	if _, err := scheduler.New(ctx, client, factory, nil, recorders, schedulerOptions...); err != nil {
		t.Fatalf("scheduler.New: %v", err)
	}
	factory.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			t.Fatalf("the informer of %s does not sync", kind)
		}
	}
	listed := map[string]bool{}
	for _, action := range client.Actions() {
		if verb := action.GetVerb(); verb == "list" || verb == "watch" {
			listed[resourceName(action.GetResource())] = true
		}
	}
	return slices.Sorted(maps.Keys(listed))
}
