package metering

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvml"
)

// known is a value that NVML tells.
func known(v int) *int64 {
	n := int64(v)
	return &n
}

// process is one as NVML tells it; negative values are not told.
func process(pid int, usedMiB, smPercent int64) nvml.ProcessUtilisation {
	p := nvml.ProcessUtilisation{PID: pid, GPUInstance: -1, ComputeInstance: -1}
	if usedMiB >= 0 {
		p.UsedMiB = &usedMiB
	}
	if smPercent >= 0 {
		p.SMPercent = &smPercent
	}
	return p
}

// procOf writes the control groups of processes below a folder that stands for /proc.
func procOf(t *testing.T, cgroups map[int]string) string {
	t.Helper()
	root := t.TempDir()
	for pid, text := range cgroups {
		dir := filepath.Join(root, strconv.Itoa(pid))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func cgroupOf(uid, id string) string { return "0::/kubepods/burstable/pod" + uid + "/" + id + "\n" }

// containersOf are two pods: a with the container main, b with x.
func containersOf(uid string) map[string]string {
	return map[string]map[string]string{podA: {id1: "main"}, podB: {id2: "x"}}[uid]
}

func TestWhereIs(t *testing.T) {
	root := procOf(t, map[int]string{
		1: cgroupOf(podA, id1),
		2: cgroupOf(podB, id2),
		3: "0::/system.slice/nvidia-persistenced.service\n",
		4: cgroupOf(podA, id2),
		5: cgroupOf("00000000-0000-0000-0000-000000000000", id1),
		6: strings.Repeat("x", maxCgroupBytes) + "\n" + cgroupOf(podA, id1),
	})
	if err := os.MkdirAll(filepath.Join(root, "7", "cgroup"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		pid    int
		want   user
		reason string
	}{
		"in a container":                     {pid: 1, want: user{podA, "main"}},
		"in another pod's":                   {pid: 2, want: user{podB, "x"}},
		"on the host":                        {pid: 3, reason: reasonHost},
		"in a container nobody knows (yet)":  {pid: 4, reason: reasonUnknown},
		"in a pod nobody knows":              {pid: 5, reason: reasonUnknown},
		"a file longer than the kernel's":    {pid: 6, reason: reasonHost},
		"a file that cannot be read":         {pid: 7, reason: reasonUnknown},
		"one that has ended":                 {pid: 8, reason: reasonGone},
		"a PID that can be none":             {pid: -1, reason: reasonGone},
		"a PID of another namespace's, as 0": {pid: 0, reason: reasonGone},
	} {
		t.Run(name, func(t *testing.T) {
			got, reason := whereIs(root, tc.pid, containersOf)
			if got != tc.want || reason != tc.reason {
				t.Errorf("%+v %q, want %+v %q", got, reason, tc.want, tc.reason)
			}
		})
	}
	// The test itself runs in no pod, or in one that nobody here knows.
	if who, reason := whereIs("/proc", os.Getpid(), containersOf); reason != reasonHost && reason != reasonUnknown {
		t.Errorf("this process: %+v %q", who, reason)
	}
}

func TestUseOfHolds(t *testing.T) {
	main, x := user{podA, "main"}, user{podB, "x"}
	where := func(pid int) (user, string) {
		switch pid / 10 {
		case 1:
			return main, ""
		case 2:
			return x, ""
		case 3:
			return user{}, reasonHost
		}
		return user{}, reasonGone
	}
	holdOf := func(u user, kind gpu.Kind, instance gpu.Instance) hold {
		return hold{key: key{u.uid, u.container, "g0", instance}, kind: kind, steps: []step{{at(0), 100}}}
	}
	share, idle := holdOf(main, gpu.Shared, gpu.Instance{}), holdOf(user{podB, "y"}, gpu.Shared, gpu.Instance{})
	place := gpu.Instance{Profile: "1g.10gb", Start: 2, Size: 1}
	partitioned := nvml.GPU{MIGDevices: []nvml.MIGDevice{
		{Instance: gpu.Instance{Profile: "1g.10gb", Start: 1, Size: 1}, UUID: "MIG-1"}, {Instance: place, UUID: "MIG-2"},
	}}
	for name, tc := range map[string]struct {
		gpu  nvml.GPU
		said nvml.Utilisation
		hold hold
		want use
	}{
		"a whole GPU: all that is used of it, by whomever": {
			said: nvml.Utilisation{
				UsedMiB: known(500), SMPercent: known(70),
				Processes: []nvml.ProcessUtilisation{process(10, 100, 10), process(30, 400, 60)},
			},
			hold: holdOf(main, gpu.Whole, gpu.Instance{}), want: use{known(500), known(70)},
		},
		"a whole GPU that tells nothing": {hold: holdOf(main, gpu.Whole, gpu.Instance{})},
		"a share: the container's processes": {
			said: nvml.Utilisation{UsedMiB: known(900), SMPercent: known(90), Until: 1, Processes: []nvml.ProcessUtilisation{
				process(10, 100, 10), process(11, 50, 5), process(20, 300, 30), process(30, 7, 7), process(99, 9, 9),
			}},
			hold: share, want: use{known(150), known(15)},
		},
		"a share that nobody uses": {
			said: nvml.Utilisation{Until: 1, Processes: []nvml.ProcessUtilisation{process(10, 100, 10)}},
			hold: idle, want: use{known(0), known(0)},
		},
		"a share whose processes did not run lately": {
			said: nvml.Utilisation{Until: 1, Processes: []nvml.ProcessUtilisation{process(10, 100, -1)}},
			hold: share, want: use{known(100), known(0)},
		},
		"a driver that does not measure processes": {
			said: nvml.Utilisation{Processes: []nvml.ProcessUtilisation{process(10, 100, -1)}},
			hold: share, want: use{memoryMiB: known(100)},
		},
		"a driver that does not tell the memory of processes": {
			said: nvml.Utilisation{Until: 1, Processes: []nvml.ProcessUtilisation{process(10, -1, 5)}},
			hold: share, want: use{smPercent: known(5)},
		},
		"one that tells it of some": {
			said: nvml.Utilisation{Until: 1, Processes: []nvml.ProcessUtilisation{process(10, -1, 5), process(11, 30, -1)}},
			hold: share, want: use{known(30), known(5)},
		},
		"a MIG instance: all that is used of it": {
			gpu: partitioned,
			said: nvml.Utilisation{Instances: []nvml.InstanceUtilisation{
				{UUID: "MIG-1", UsedMiB: known(1)}, {UUID: "MIG-2", UsedMiB: known(2)},
			}},
			hold: holdOf(main, gpu.MIG, place), want: use{memoryMiB: known(2)},
		},
		"a MIG instance that NVML does not measure": {
			gpu:  partitioned,
			said: nvml.Utilisation{Instances: []nvml.InstanceUtilisation{{UUID: "MIG-2"}, {UUID: "MIG-9", UsedMiB: known(2)}}},
			hold: holdOf(main, gpu.MIG, place),
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := attribute(tc.gpu, tc.said, at(1), where)
			if diff := cmp.Diff(tc.want, s.useOf(tc.hold), cmp.AllowUnexported(use{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got := (*sample)(nil).useOf(share); got != (use{}) {
		t.Errorf("%+v of a GPU that was not measured", got)
	}
}

func TestWhatCannotBeAttributed(t *testing.T) {
	main, x := user{podA, "main"}, user{podB, "x"}
	where := func(pid int) (user, string) {
		return []user{main, x, {}, {}, {}}[pid], []string{"", "", reasonHost, reasonUnknown, reasonGone}[pid]
	}
	s := attribute(nvml.GPU{}, nvml.Utilisation{Processes: []nvml.ProcessUtilisation{
		process(0, 1, 1), process(1, 10, 1), process(1, 20, 1), process(2, 100, 1), process(2, -1, 1), process(3, -1, 1),
	}}, at(1), where)
	for name, tc := range map[string]struct {
		holders []user
		want    map[string]used
	}{
		"a container that holds nothing of the GPU": {
			holders: []user{main},
			want: map[string]used{
				reasonUnassigned: {processes: 2, memoryMiB: known(30)},
				reasonHost:       {processes: 2, memoryMiB: known(100), smPercent: known(2)},
				reasonUnknown:    {processes: 1, smPercent: known(1)},
				reasonGone:       {},
			},
		},
		"none that does": {
			want: map[string]used{
				reasonUnassigned: {processes: 3, memoryMiB: known(31)},
				reasonHost:       {processes: 2, memoryMiB: known(100), smPercent: known(2)},
				reasonUnknown:    {processes: 1, smPercent: known(1)},
				reasonGone:       {},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			holds := map[user]bool{}
			for _, u := range tc.holders {
				holds[u] = true
			}
			for range 2 { // asking changes nothing
				got := s.unattributed(func(u user) bool { return holds[u] })
				if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(used{})); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestRunningPods(t *testing.T) {
	root := procOf(t, map[int]string{
		1: "0::/init.scope\n", 2: cgroupOf(podA, id1), 3: cgroupOf(podA, id2), 4: "no control group",
	})
	if err := os.MkdirAll(filepath.Join(root, "self"), 0o755); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]bool{podA: true}, RunningPods(root)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if got := RunningPods(filepath.Join(root, "missing")); len(got) != 0 {
		t.Errorf("without a folder of processes: %v", got)
	}
}
