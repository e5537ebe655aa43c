package nodeagent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/nvml/nvmlfake"
)

func TestMemoryOutlivesTheAgentAndNotTheBoot(t *testing.T) {
	n := nvmlfake.DGXH100()
	n.GPUs[1].MIG = nvmlfake.MIG{Enabled: true, Instances: []string{"3g.40gb@4"}}
	cards := cardsOf(hostOf(t, n))
	m := memory{filepath.Join(t.TempDir(), "gpus.json"), "boot-1"}
	if got, err := m.load(); err != nil || got != nil {
		t.Errorf("before anything was saved: %v, %v", got, err)
	}
	if err := m.save(cards); err != nil {
		t.Fatal(err)
	}
	got, err := m.load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(cards, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, boot := range []string{"boot-2", ""} { // "": nobody knows which
		if got, err := (memory{m.path, boot}).load(); err != nil || got != nil {
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
			cards, err := m.load()
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), m.path) {
				t.Errorf("error %v, want one with the file's name and %q", err, tc.want)
			}
			if cards != nil {
				t.Errorf("and yet GPUs: %v", cards)
			}
		})
	}
}

func TestMemoryOnADiskThatIsFull(t *testing.T) {
	m := memory{filepath.Join(t.TempDir(), "missing", "gpus.json"), "b"}
	if err := m.save(nil); err == nil {
		t.Error("no error")
	}
}
