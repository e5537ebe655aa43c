package handout

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	oci "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/specs-go"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/slot"
)

func TestSpecification(t *testing.T) {
	hardware := &specs.ContainerEdits{
		Env:         []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER=1"},
		DeviceNodes: []*specs.DeviceNode{{Path: "/dev/nvidia0", HostPath: "/host/dev/nvidia0"}},
		Mounts:      []*specs.Mount{{HostPath: "/usr/lib/libcuda.so", ContainerPath: "/usr/lib/libcuda.so", Options: []string{"ro"}}},
		Hooks: []*specs.Hook{{
			HookName: "createContainer", Path: "/usr/bin/nvidia-cdi-hook", Args: []string{"nvidia-cdi-hook", "update-ldcache"},
		}},
	}
	around, err := slot.Environment([]gpu.Grant{{GPU: "GPU-1", MilliGPU: 250, MemoryMiB: 20480}},
		[]gpu.Device{{ID: "GPU-1", Isolation: gpu.IsolationMPS}}, "/run/weft/mps")
	if err != nil {
		t.Fatal(err)
	}
	got, err := specification("abc", hardware, around)
	if err != nil {
		t.Fatal(err)
	}
	want := `{
 "cdiVersion": "0.5.0",
 "kind": "weft.sh/slot",
 "devices": [
  {
   "name": "abc",
   "containerEdits": {
    "env": [
     "NVIDIA_DRIVER=1",
     "WEFT_GPUS=GPU-1:250m/20480Mi",
     "NVIDIA_VISIBLE_DEVICES=void",
     "CUDA_MPS_PIPE_DIRECTORY=/mps/pipe",
     "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=25",
     "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=20480M"
    ],
    "deviceNodes": [
     {
      "path": "/dev/nvidia0",
      "hostPath": "/host/dev/nvidia0"
     }
    ],
    "hooks": [
     {
      "hookName": "createContainer",
      "path": "/usr/bin/nvidia-cdi-hook",
      "args": [
       "nvidia-cdi-hook",
       "update-ldcache"
      ]
     }
    ],
    "mounts": [
     {
      "hostPath": "/usr/lib/libcuda.so",
      "containerPath": "/usr/lib/libcuda.so",
      "options": [
       "ro"
      ]
     },
     {
      "hostPath": "/run/weft/mps/GPU-1/pipe",
      "containerPath": "/mps/pipe",
      "options": [
       "rbind",
       "rprivate",
       "rw",
       "nosuid",
       "nodev",
       "noexec"
      ]
     },
     {
      "hostPath": "/run/weft/mps/GPU-1/shm",
      "containerPath": "/dev/shm",
      "options": [
       "rbind",
       "rprivate",
       "rw",
       "nosuid",
       "nodev",
       "noexec"
      ]
     }
    ]
   }
  }
 ],
 "containerEdits": {}
}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if len(hardware.Env) != 2 || hardware.Env[0] != "NVIDIA_VISIBLE_DEVICES=all" || len(hardware.Mounts) != 1 {
		t.Errorf("what the caller has was changed: %+v", hardware)
	}
	again, err := specification("abc", hardware, around)
	if err != nil || string(again) != want {
		t.Errorf("a second time: %s, %v", again, err)
	}

	// A container that sets the same variables itself, with the usual /dev/shm.
	dir := t.TempDir()
	here := strings.Replace(want, `"hostPath": "/host/dev/nvidia0"`, `"type": "c", "major": 195`, 1) // no need for the device
	if err := os.WriteFile(dir+"/"+filePrefix+"abc"+fileSuffix, []byte(here), 0o600); err != nil {
		t.Fatal(err)
	}
	cache, err := cdi.NewCache(cdi.WithAutoRefresh(false), cdi.WithSpecDirs(dir))
	if err != nil {
		t.Fatal(err)
	}
	container := &oci.Spec{
		Process: &oci.Process{Env: []string{"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=99G", "WEFT_GPUS=GPU-9", "NVIDIA_VISIBLE_DEVICES=all"}},
		Mounts:  []oci.Mount{{Destination: "/dev/shm", Source: "shm"}},
	}
	if _, err := cache.InjectDevices(container, device("abc")); err != nil {
		t.Fatal(err, cache.GetErrors())
	}
	if diff := cmp.Diff([]string{
		"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=20480M", "WEFT_GPUS=GPU-1:250m/20480Mi", "NVIDIA_VISIBLE_DEVICES=void",
		"NVIDIA_DRIVER=1", "CUDA_MPS_PIPE_DIRECTORY=/mps/pipe", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=25",
	}, container.Process.Env); diff != "" {
		t.Errorf("environment: -want +got\n%s", diff)
	}
	var shm []string
	for _, m := range container.Mounts {
		if m.Destination == "/dev/shm" {
			shm = append(shm, m.Source)
		}
	}
	if diff := cmp.Diff([]string{"/run/weft/mps/GPU-1/shm"}, shm); diff != "" {
		t.Errorf("/dev/shm: -want +got\n%s", diff)
	}
}

func TestSpecificationThatNoRuntimeWouldTake(t *testing.T) {
	around := slot.Surroundings{Env: []string{"WEFT_GPUS=GPU-1"}}
	for name, tc := range map[string]struct {
		record   string
		hardware *specs.ContainerEdits
	}{
		"a name with a slash":      {"a/b", nil},
		"no name":                  {"", nil},
		"a device node of no path": {"a", &specs.ContainerEdits{DeviceNodes: []*specs.DeviceNode{{}}}},
		"a variable of no name":    {"a", &specs.ContainerEdits{Env: []string{"novalue"}}},
		"a hook of no kind":        {"a", &specs.ContainerEdits{Hooks: []*specs.Hook{{HookName: "whenever", Path: "/x"}}}},
	} {
		if got, err := specification(tc.record, tc.hardware, around); err == nil {
			t.Errorf("%s: %s", name, got)
		}
	}
}
