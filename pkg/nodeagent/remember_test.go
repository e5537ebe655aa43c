package nodeagent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/health"
	"weft.sh/weft/pkg/nvml/nvmlfake"
)

func TestMemoryOutlivesTheAgentAndNotTheBoot(t *testing.T) {
	n := nvmlfake.DGXH100()
	n.GPUs[1].MIG = nvmlfake.MIG{Enabled: true, Instances: []string{"3g.40gb@4"}}
	failed := health.State{Xids: []health.Xid{{Number: 48}}, Since: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Failures: 2}
	want := remembered{cardsOf(hostOf(t, n)), map[gpu.ID]health.State{"GPU-a": failed}}
	m := memory{filepath.Join(t.TempDir(), "gpus.json"), "boot-1"}
	if got, err := m.load(); err != nil || got.GPUs != nil {
		t.Errorf("before anything was saved: %v, %v", got, err)
	}
	if err := m.save(want); err != nil {
		t.Fatal(err)
	}
	got, err := m.load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, boot := range []string{"boot-2", ""} { // "": nobody knows which
		if got, err := (memory{m.path, boot}).load(); err != nil || got.GPUs != nil || got.Failures != nil {
			t.Errorf("after another boot (%q): %v, %v", boot, got, err)
		}
	}
	if left, _ := filepath.Glob(m.path + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestMemoryThatCannotBeUnderstood(t *testing.T) {
	for name, tc := range map[string]struct{ text, want string }{
		"another version":    {`{"version": 2, "bootID": "b"}`, "version is 2: want 1"},
		"half a file":        {`{"version": 1,`, "unexpected end"},
		"GPUs that are none": {`{"version": 1, "bootID": "b", "gpus": [{"ID": "GPU-a", "Index": -1}]}`, "index -1"},
	} {
		t.Run(name, func(t *testing.T) {
			m := memory{filepath.Join(t.TempDir(), "gpus.json"), "b"}
			if err := os.WriteFile(m.path, []byte(tc.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := m.load()
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), m.path) {
				t.Errorf("error %v, want one with the file's name and %q", err, tc.want)
			}
			if got.GPUs != nil {
				t.Errorf("and yet GPUs: %v", got.GPUs)
			}
		})
	}
}

func TestMemoryOnADiskThatIsFull(t *testing.T) {
	m := memory{filepath.Join(t.TempDir(), "missing", "gpus.json"), "b"}
	if err := m.save(remembered{}); err == nil {
		t.Error("no error")
	}
}
