package inventory

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
)

// labelled is a node with the labels of two A100s and those given; an empty one is left out.
func labelled(name, allocatable string, labels map[string]string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		podspec.LabelProduct: "NVIDIA-A100-SXM4-80GB", podspec.LabelCount: "2", podspec.LabelMemory: "81920",
	}}}
	maps.Copy(n.Labels, labels)
	maps.DeleteFunc(n.Labels, func(_, v string) bool { return v == "" })
	if allocatable != "" {
		n.Status.Allocatable = v1.ResourceList{podspec.ResourceGPU: resource.MustParse(allocatable)}
	}
	return n
}

func TestFromLabels(t *testing.T) {
	type labels = map[string]string
	tests := map[string]struct {
		labels      labels
		allocatable string
		source      cluster.Source
		gpus        int
		problems    []string
	}{
		"two GPUs":                             {nil, "", cluster.SourceLabels, 2, nil},
		"two GPUs, all allocatable":            {nil, "2", cluster.SourceLabels, 2, nil},
		"more allocatable than the labels say": {nil, "3", cluster.SourceLabels, 2, nil},
		"fewer allocatable":                    {nil, "1", cluster.SourceLabels, 1, nil},
		"none allocatable":                     {nil, "0", cluster.SourceLabels, 0, nil},
		"fewer than none allocatable":          {nil, "-1", cluster.SourceLabels, 0, nil},
		"no GPU":                               {labels{podspec.LabelCount: "0"}, "", cluster.SourceLabels, 0, nil},
		"as many as a node can have":           {labels{podspec.LabelCount: "64"}, "64", cluster.SourceLabels, 64, nil},
		"no product":                           {labels{podspec.LabelProduct: ""}, "2", cluster.SourceNone, 0, nil},
		"no count":                             {labels{podspec.LabelCount: ""}, "2", cluster.SourceNone, 0, nil},
		"no sharing, said so":                  {labels{podspec.LabelSharing: "none"}, "", cluster.SourceLabels, 2, nil},
		"sharing": {
			labels{podspec.LabelSharing: "time-slicing"},
			"8", cluster.SourceLabels, 0,
			[]string{`label nvidia.com/gpu.sharing-strategy is "time-slicing": GPUs shared by another device plugin cannot be given whole`},
		},
		"too many":        {labels{podspec.LabelCount: "65"}, "", cluster.SourceLabels, 0, []string{`label nvidia.com/gpu.count is "65": want a number from 0 to 64`}},
		"fewer than none": {labels{podspec.LabelCount: "-1"}, "", cluster.SourceLabels, 0, []string{`label nvidia.com/gpu.count is "-1": want a number from 0 to 64`}},
		"many":            {labels{podspec.LabelCount: "many"}, "", cluster.SourceLabels, 0, []string{`label nvidia.com/gpu.count is "many": want a number from 0 to 64`}},
		"no memory":       {labels{podspec.LabelMemory: ""}, "", cluster.SourceLabels, 0, []string{`label nvidia.com/gpu.memory is "": want the memory of one GPU in MiB`}},
		"memory of 0":     {labels{podspec.LabelMemory: "0"}, "", cluster.SourceLabels, 0, []string{`label nvidia.com/gpu.memory is "0": want the memory of one GPU in MiB`}},
		"memory below 0":  {labels{podspec.LabelMemory: "-1"}, "", cluster.SourceLabels, 0, []string{`label nvidia.com/gpu.memory is "-1": want the memory of one GPU in MiB`}},
		"memory in GiB":   {labels{podspec.LabelMemory: "80Gi"}, "", cluster.SourceLabels, 0, []string{`label nvidia.com/gpu.memory is "80Gi": want the memory of one GPU in MiB`}},
		"memory of any size": {
			labels{podspec.LabelMemory: "1073741825", podspec.LabelCount: "1"}, "", cluster.SourceLabels, 0, []string{`device "gpu-0": memory 1073741825 MiB: want 1 to 1073741824`},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			inv := FromLabels(labelled("a", tc.allocatable, tc.labels))
			if inv.Source != tc.source || len(inv.Devices) != tc.gpus {
				t.Errorf("source %v and %d GPUs, want %v and %d", inv.Source, len(inv.Devices), tc.source, tc.gpus)
			}
			if diff := cmp.Diff(tc.problems, inv.Problems); diff != "" {
				t.Errorf("problems -want +got\n%s", diff)
			}
		})
	}
	want := []gpu.Device{
		{ID: "gpu-0", Index: 0, Product: "NVIDIA-A100-SXM4-80GB", MemoryMiB: 81920, WholeOnly: true},
		{ID: "gpu-1", Index: 1, Product: "NVIDIA-A100-SXM4-80GB", MemoryMiB: 81920, WholeOnly: true},
	}
	if diff := cmp.Diff(want, FromLabels(labelled("a", "", nil)).Devices); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestSlicesGoBeforeLabels(t *testing.T) {
	node := labelled("a", "", nil)
	some := cluster.NewInventory(cluster.SourceSlices, []gpu.Device{plain(0)})
	none := cluster.NewInventory(cluster.SourceSlices, nil)
	for name, tc := range map[string]struct {
		node   *v1.Node
		slices cluster.Inventory
		want   cluster.Inventory
	}{
		"slices":                        {node, some, some},
		"slices that say there is none": {node, none, none},
		"labels, without slices":        {node, cluster.Inventory{}, FromLabels(node)},
		"slices, of an unknown node":    {nil, some, some},
		"nothing":                       {nil, cluster.Inventory{}, cluster.Inventory{}},
		"nothing, without labels":       {&v1.Node{}, cluster.Inventory{}, cluster.Inventory{}},
	} {
		if got := Of(tc.node, tc.slices); !got.Equal(tc.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
