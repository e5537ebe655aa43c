package nodeagent

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	logsapi "k8s.io/component-base/logs/api/v1"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/nvml"
	"weft.sh/weft/pkg/nvml/nvmlfake"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// golden compares the text with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; go test -rewrite writes it anew):\n%s", path, diff)
	}
}

// hostOf is what NVML says of the node.
func hostOf(t *testing.T, n nvmlfake.Node) nvml.Host {
	t.Helper()
	fake, err := nvmlfake.New(n)
	if err != nil {
		t.Fatal(err)
	}
	lib := nvml.New(fake)
	host, err := lib.Discover()
	if err := errors.Join(err, lib.Close()); err != nil {
		t.Fatal(err)
	}
	return host
}

var all = policy{mode: ModeAll, cgroup2: true}

func TestProbeText(t *testing.T) {
	for _, preset := range slices.Sorted(maps.Keys(nvmlfake.Presets)) {
		t.Run(preset, func(t *testing.T) {
			golden(t, "probe-"+preset+".txt", probe("node-1", hostOf(t, nvmlfake.Presets[preset]()), all).text())
		})
	}
	t.Run("what is wrong", func(t *testing.T) {
		n := nvmlfake.DGXH100()
		n.GPUs[2].Recovery = new(uint32(1))
		n.GPUs[3].MIG = nvmlfake.MIG{Enabled: true, Instances: []string{"1g.10gb@0", "3g.40gb@4"}}
		n.GPUs[4].MIG = nvmlfake.MIG{Enabled: true, Unchecked: true, Instances: []string{"3g.40gb@0", "2g.20gb@2"}}
		n.GPUs[5].Lost = true
		n.GPUs[6].Model = "A30"
		n.GPUs[7].MIG.Profiles = map[string]nvmlfake.ProfileLie{"3g.40gb": {Placements: &[][2]uint32{{0, 3}, {4, 3}}}}
		golden(t, "probe-wrong.txt", probe("node-1", hostOf(t, n), policy{mode: ModeAll}).text())
	})
	t.Run("fractions beside NVIDIA's device plugin", func(t *testing.T) {
		n := nvmlfake.DGXH100()
		n.DriverVersion, n.CUDAVersion = "615.12", "13.4" // bounds memory
		n.GPUs[3].MIG = nvmlfake.MIG{Enabled: true, Instances: []string{"7g.80gb@0"}}
		p := policy{mode: ModeFractions, shared: []string{"3", "4", "5", "9"}, cgroup2: true}
		golden(t, "probe-fractions.txt", probe("node-1", hostOf(t, n), p).text())
	})
}

// What stands in the ResourceSlices is what the scheduler makes of them: the devices themselves.
func TestProbePublishesWhatTheSchedulerReads(t *testing.T) {
	n := nvmlfake.DGXA100()
	n.GPUs[0].MIG = nvmlfake.MIG{Enabled: true, Instances: []string{"1g.10gb@0", "3g.40gb@4"}}
	host := hostOf(t, n)
	read := inventory.FromSlices(probe("node-1", host, all).ResourceSlices)
	if len(read.Problems) > 0 {
		t.Errorf("problems: %q", read.Problems)
	}
	want := derive(cardsOf(host), host, nil, nil, all).Devices
	for _, devices := range [][]gpu.Device{want, read.Devices} {
		for i := range devices {
			devices[i].Hardware.DriverVersion = "" // 580.95.05 is no version in a ResourceSlice, but 580.95.5
		}
	}
	if diff := cmp.Diff(want, read.Devices); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestProbeOutput(t *testing.T) {
	file := filepath.Join(t.TempDir(), "node.yaml")
	if err := nvmlfake.A30().Write(file); err != nil {
		t.Fatal(err)
	}
	open := func(nvml.Options) (*nvml.Library, error) {
		fake, err := nvmlfake.FromFile(file)
		if err != nil {
			return nil, err
		}
		return nvml.New(fake), nil
	}
	run := func(args ...string) (string, error) {
		if err := logsapi.ResetForTest(nil); err != nil { // the settings of a process, which every command line makes
			t.Fatal(err)
		}
		cmd := NewCommand(open)
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(append([]string{"probe", "--node-name", "node-1"}, args...))
		err := cmd.Execute()
		return out.String(), err
	}
	text, err := run("-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var p Probe
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		t.Fatal(err)
	}
	if len(p.GPUs) != 1 || p.GPUs[0].Product != "NVIDIA-A30" || len(p.ResourceSlices) != 1 || p.Labels["nvidia.com/gpu.count"] != "1" {
		t.Errorf("got %+v", p)
	}
	if text, err = run("-o", "yaml"); err != nil || !strings.Contains(text, "\n  product: NVIDIA-A30\n") {
		t.Errorf("yaml: %v\n%s", err, text)
	}
	if _, err = run("-o", "xml"); err == nil || !strings.Contains(err.Error(), `--output is "xml": want one of json, yaml`) {
		t.Errorf("xml: error %v", err)
	}

	broken := nvmlfake.A30()
	broken.StartError = "ERROR_DRIVER_NOT_LOADED"
	if err := broken.Write(file); err != nil {
		t.Fatal(err)
	}
	if _, err = run(); !errors.Is(err, nvml.ErrUnavailable) || !strings.Contains(err.Error(), "modprobe nvidia") || !strings.Contains(err.Error(), "--driver-root") {
		t.Errorf("without a driver: error %v, want one that says what to do", err)
	}
}
