package controller

import (
	"os"
	"slices"
	"strings"
	"testing"

	"weft.sh/weft/pkg/gang"
)

// TestLevelsAreThoseOfTheScheduler: the controller that is shipped knows the levels of the scheduler that is shipped.
func TestLevelsAreThoseOfTheScheduler(t *testing.T) {
	for file, none := range map[string]string{
		"../../manifests/scheduler/config.yaml": "topologyLevels", "../../manifests/controller/deployment.yaml": "--topology-levels",
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), none) {
			t.Errorf("%s names levels: the other of the two has to name the same, and this test to compare them", file)
		}
	}
	cmd := NewCommand()
	levels, err := cmd.Flags().GetStringSlice("topology-levels")
	if err != nil || !slices.Contains(levels, gang.LevelNVLink) || !slices.Contains(levels, "topology.kubernetes.io/rack") {
		t.Errorf("the levels are %q by default: %v", levels, err)
	}
	if err := cmd.ParseFlags([]string{"--topology-levels="}); err != nil {
		t.Fatal(err)
	}
	if levels, _ = cmd.Flags().GetStringSlice("topology-levels"); len(levels) != 0 {
		t.Errorf("an empty flag leaves %q", levels)
	}
}
