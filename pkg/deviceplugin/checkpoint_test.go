package deviceplugin

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"weft.sh/weft/pkg/slot"
)

// answer is what Allocate answered, as the kubelet keeps it.
func answer(t testing.TB, cdiDevices ...string) []byte {
	t.Helper()
	r := &pluginapi.ContainerAllocateResponse{Envs: map[string]string{"A": "b"}}
	for _, name := range cdiDevices {
		r.CdiDevices = append(r.CdiDevices, &pluginapi.CDIDevice{Name: name})
	}
	data, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func checkpointOf(t testing.TB, entries ...checkpointEntry) []byte {
	t.Helper()
	data, err := json.Marshal(map[string]any{
		"Data":     map[string]any{"PodDeviceEntries": entries, "RegisteredDevices": map[string][]string{"nvidia.com/gpu": {"gpu-0"}}},
		"Checksum": 17,
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParseCheckpoint(t *testing.T) {
	for name, test := range map[string]struct {
		data []byte
		want []slot.Claim
		err  error
	}{
		"nobody has anything": {data: checkpointOf(t), want: []slot.Claim{}},
		"nobody ever had":     {data: []byte(`{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":1}`), want: []slot.Claim{}},
		"by pod and container, slots of all NUMA nodes together": {
			data: checkpointOf(t,
				checkpointEntry{"uid-2", "main", "weft.sh/gpu-percent", map[string][]string{"-1": {"share-2", "share-10"}}, answer(t, slot.CDIKind+"=b")},
				checkpointEntry{"uid-1", "main", "nvidia.com/gpu", map[string][]string{"0": {"gpu-2", "gpu-0"}, "1": {"gpu-1", "gpu-2"}}, answer(t, "other.com/x=y", slot.CDIKind+"=a")},
				checkpointEntry{"uid-1", "init", "nvidia.com/mig-1g.10gb.me", map[string][]string{"-1": {"1g.10gb+me-0"}}, answer(t, slot.CDIKind+"=c")},
			),
			want: []slot.Claim{
				{UID: "uid-1", Container: "init", Resource: mig, Slots: []string{"1g.10gb+me-0"}, Name: "c"},
				{UID: "uid-1", Container: "main", Resource: whole, Slots: []string{"gpu-0", "gpu-1", "gpu-2"}, Name: "a"},
				{UID: "uid-2", Container: "main", Resource: shared, Slots: []string{"share-10", "share-2"}, Name: "b"},
			},
		},
		"another plugin's answer has no name": {
			data: checkpointOf(t, checkpointEntry{"uid-1", "main", "nvidia.com/gpu", map[string][]string{"-1": {"GPU-1"}}, answer(t, "nvidia.com/gpu=0")}),
			want: []slot.Claim{{UID: "uid-1", Container: "main", Resource: whole, Slots: []string{"GPU-1"}}},
		},
		"other resources are not looked at": {
			data: checkpointOf(t, checkpointEntry{ResourceName: "amd.com/gpu", AllocResp: []byte{0xff}}),
			want: []slot.Claim{},
		},
		"no JSON":           {data: []byte(`{"Data":`), err: ErrCheckpoint},
		"nothing":           {err: ErrCheckpoint},
		"another document":  {data: []byte(`{"podDevices":[]}`), err: ErrCheckpoint},
		"another form":      {data: []byte(`{"Data":"v3"}`), err: ErrCheckpoint},
		"devices as a list": {data: []byte(`{"Data":{"PodDeviceEntries":[{"ResourceName":"nvidia.com/gpu","DeviceIDs":["a"]}]}}`), err: ErrCheckpoint},
		"an answer that is none": {
			data: checkpointOf(t, checkpointEntry{"uid-1", "main", "nvidia.com/gpu", map[string][]string{"-1": {"gpu-0"}}, []byte{0xff}}), err: ErrCheckpoint,
		},
		"no pod":       {data: checkpointOf(t, checkpointEntry{"", "main", "nvidia.com/gpu", map[string][]string{"-1": {"gpu-0"}}, nil}), err: ErrCheckpoint},
		"no container": {data: checkpointOf(t, checkpointEntry{"uid-1", "", "nvidia.com/gpu", map[string][]string{"-1": {"gpu-0"}}, nil}), err: ErrCheckpoint},
		"no devices":   {data: checkpointOf(t, checkpointEntry{"uid-1", "main", "nvidia.com/gpu", nil, nil}), err: ErrCheckpoint},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseCheckpoint(test.data)
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Errorf("error %v; want %v", err, test.err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add(checkpointOf(f, checkpointEntry{"uid-1", "main", "nvidia.com/gpu", map[string][]string{"0": {"b", "a"}, "-1": {"c"}}, answer(f, slot.CDIKind+"=a")}))
	f.Add([]byte(`{"Data":{"PodDeviceEntries":null}}`))
	f.Add([]byte(`{"Data":{"PodDeviceEntries":[{"PodUID":"u","ContainerName":"c","ResourceName":"weft.sh/gpu-percent","DeviceIDs":{"-1":["s"]},"AllocResp":"KgMKAWE="}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		claims, err := parseCheckpoint(data)
		if (claims == nil) != (err != nil) {
			t.Fatalf("claims %v with error %v", claims, err)
		}
		for _, c := range claims {
			if c.UID == "" || c.Container == "" || len(c.Slots) == 0 || !slices.IsSorted(c.Slots) {
				t.Errorf("claim %+v", c)
			}
			if _, ok := ParseResourceName(ResourceName(c.Resource)); !ok {
				t.Errorf("claim of %+v, which is no resource", c.Resource)
			}
		}
	})
}
