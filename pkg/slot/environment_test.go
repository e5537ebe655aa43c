package slot

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
)

func TestEnvironment(t *testing.T) {
	whole := func(id gpu.ID) gpu.Grant { return gpu.Grant{GPU: id} }
	share := func(id gpu.ID, milli, memory int64) gpu.Grant {
		return gpu.Grant{GPU: id, MilliGPU: milli, MemoryMiB: memory}
	}
	devices := []gpu.Device{
		{ID: "GPU-none", Isolation: gpu.IsolationNone},
		{ID: "GPU-silent"},
		{ID: "GPU-memory", Isolation: gpu.IsolationMemory},
		{ID: "GPU-memory2", Isolation: gpu.IsolationMemory},
		{ID: "GPU-mps", Isolation: gpu.IsolationMPS},
		{ID: "GPU-mps2", Isolation: gpu.IsolationMPS},
		{ID: "GPU-mig", MIG: true, Isolation: gpu.IsolationMPS},
		{ID: "GPU-new", Isolation: "walls"},
	}
	const void = "NVIDIA_VISIBLE_DEVICES=void"
	for name, tc := range map[string]struct {
		grants []gpu.Grant
		root   string
		want   Surroundings
		err    error
		says   []string
	}{
		"whole GPUs are named, and nothing bounds them": {
			grants: []gpu.Grant{whole("GPU-memory"), whole("GPU-mps")},
			want:   Surroundings{Env: []string{"WEFT_GPUS=GPU-memory,GPU-mps", void}},
		},
		"a MIG instance is bounded by the hardware": {
			grants: []gpu.Grant{{GPU: "GPU-mig", Instance: &gpu.Instance{Profile: "3g.40gb", Start: 4, Size: 4}}},
			want:   Surroundings{Env: []string{"WEFT_GPUS=GPU-mig:3g.40gb@4:4", void}},
		},
		"shares that nothing keeps apart have no limit": {
			grants: []gpu.Grant{share("GPU-none", 250, 20480), share("GPU-silent", 250, 20480)},
			want:   Surroundings{Env: []string{"WEFT_GPUS=GPU-none:250m/20480Mi,GPU-silent:250m/20480Mi", void}},
		},
		"the driver's limit is the share's memory": {
			grants: []gpu.Grant{share("GPU-memory", 250, 20480)},
			want: Surroundings{Env: []string{
				"WEFT_GPUS=GPU-memory:250m/20480Mi", void,
				"NVIDIA_GPU_MEMORY_LIMIT=20480", "NVIDIA_GPU_MEMORY_REQUEST=20480",
			}},
		},
		"the driver's limit is one for all GPUs, so it is the smallest": {
			grants: []gpu.Grant{share("GPU-memory", 250, 20480), share("GPU-memory2", 250, 11520), share("GPU-none", 250, 5000)},
			want: Surroundings{Env: []string{
				"WEFT_GPUS=GPU-memory:250m/20480Mi,GPU-memory2:250m/11520Mi,GPU-none:250m/5000Mi", void,
				"NVIDIA_GPU_MEMORY_LIMIT=11520", "NVIDIA_GPU_MEMORY_REQUEST=11520",
			}},
		},
		"MPS bounds processes, by the daemon of the GPU": {
			grants: []gpu.Grant{share("GPU-mps", 250, 20480)}, root: "/run/weft/mps",
			want: Surroundings{
				Env: []string{
					"WEFT_GPUS=GPU-mps:250m/20480Mi", void, "CUDA_MPS_PIPE_DIRECTORY=/mps/pipe",
					"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=25", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=20480M",
				},
				Mounts: []Mount{{"/run/weft/mps/GPU-mps/pipe", "/mps/pipe"}, {"/run/weft/mps/GPU-mps/shm", "/dev/shm"}},
			},
		},
		"MPS never gets a share of 0 percent, which would be no limit": {
			grants: []gpu.Grant{share("GPU-mps", 9, 100)}, root: "/mps",
			want: Surroundings{
				Env: []string{
					"WEFT_GPUS=GPU-mps:9m/100Mi", void, "CUDA_MPS_PIPE_DIRECTORY=/mps/pipe",
					"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=1", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=100M",
				},
				Mounts: []Mount{{"/mps/GPU-mps/pipe", "/mps/pipe"}, {"/mps/GPU-mps/shm", "/dev/shm"}},
			},
		},
		"MPS serves one GPU per container": {
			grants: []gpu.Grant{share("GPU-mps", 250, 1), share("GPU-mps2", 250, 1)}, root: "/mps",
			err: ErrIsolation, says: []string{"GPU-mps", "one GPU per container", "GPU-mps:250m/1Mi,GPU-mps2:250m/1Mi"},
		},
		"MPS beside a GPU that is shared otherwise does not work either": {
			grants: []gpu.Grant{share("GPU-none", 250, 1), share("GPU-mps2", 250, 1)}, root: "/mps",
			err: ErrIsolation, says: []string{"GPU-mps2"},
		},
		"MPS that is nowhere": {
			grants: []gpu.Grant{share("GPU-mps", 250, 1)}, err: ErrIsolation, says: []string{"GPU-mps", "where MPS runs"},
		},
		"isolation that is not known refuses": {
			grants: []gpu.Grant{share("GPU-new", 250, 1)}, err: ErrIsolation, says: []string{"GPU-new", `"walls"`},
		},
		"isolation that is not known does not matter to whole GPUs": {
			grants: []gpu.Grant{whole("GPU-new")}, want: Surroundings{Env: []string{"WEFT_GPUS=GPU-new", void}},
		},
		"a GPU that the node does not have": {
			grants: []gpu.Grant{whole("GPU-none"), whole("GPU-far")}, err: ErrElsewhere, says: []string{"GPU-far"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Environment(tc.grants, devices, tc.root)
			if !errors.Is(err, tc.err) {
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			for _, s := range tc.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("error %q does not say %q", err, s)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			// What it names must be readable as what it holds.
			if err == nil {
				text := strings.TrimPrefix(got.Env[0], EnvGPUs+"=")
				a, err := gpu.ParseAssignment("c=" + text)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tc.grants, a.Containers[0].Grants); diff != "" {
					t.Errorf("%s says other grants: -want +got\n%s", EnvGPUs, diff)
				}
			}
		})
	}
}
