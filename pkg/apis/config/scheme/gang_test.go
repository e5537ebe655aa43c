package scheme

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"

	"weft.sh/weft/pkg/apis/config"
	"weft.sh/weft/pkg/apis/config/v1"
)

// gangDefaults are the arguments of a file that says nothing, changed by f.
func gangDefaults(f func(a *config.GangArgs)) *config.GangArgs {
	a := &config.GangArgs{
		TopologyLevels: []string{
			"nvlink", "nvidia.com/gpu.clique", "network.topology.nvidia.com/accelerator", "network.topology.nvidia.com/block",
			"network.topology.nvidia.com/spine", "network.topology.nvidia.com/datacenter", "topology.kubernetes.io/rack", "topology.kubernetes.io/zone",
		},
		PermitTimeoutSeconds: 10, BindRetries: 3, Backfill: true, AgingSeconds: 600,
	}
	if f != nil {
		f(a)
	}
	return a
}

func TestGangArgs(t *testing.T) {
	tests := map[string]struct {
		args runtime.Object
		want *config.GangArgs
	}{
		"none":                       {nil, gangDefaults(nil)},
		"an empty object":            {raw(`{}`), gangDefaults(nil)},
		"null, which is not given":   {raw(`{"topologyLevels":null,"backfill":null,"bindRetries":null}`), gangDefaults(nil)},
		"two levels":                 {raw(`{"topologyLevels":["rack","zone"]}`), gangDefaults(func(a *config.GangArgs) { a.TopologyLevels = []string{"rack", "zone"} })},
		"no level, said so":          {raw(`{"topologyLevels":[]}`), gangDefaults(func(a *config.GangArgs) { a.TopologyLevels = []string{} })},
		"zeros and no, said so":      {raw(`{"bindRetries":0,"backfill":false,"agingSeconds":0}`), gangDefaults(func(a *config.GangArgs) { a.BindRetries, a.Backfill, a.AgingSeconds = 0, false, 0 })},
		"all, with kind and version": {raw(`{"apiVersion":"config.weft.sh/v1","kind":"GangArgs","topologyLevels":["nvlink"],"permitTimeoutSeconds":900,"bindRetries":100,"backfill":true,"agingSeconds":1}`), &config.GangArgs{TopologyLevels: []string{"nvlink"}, PermitTimeoutSeconds: 900, BindRetries: 100, Backfill: true, AgingSeconds: 1}},
		"as YAML":                    {raw("topologyLevels:\n  - rack\npermitTimeoutSeconds: 1\n"), gangDefaults(func(a *config.GangArgs) { a.TopologyLevels, a.PermitTimeoutSeconds = []string{"rack"}, 1 })},
		"in the internal form":       {gangDefaults(func(a *config.GangArgs) { a.BindRetries = 9 }), gangDefaults(func(a *config.GangArgs) { a.BindRetries = 9 })},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := GangArgs(tc.args)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if runtime.Object(got) == tc.args {
				t.Error("the caller's object is returned, not a copy")
			}
		})
	}
}

func TestGangArgsRefuses(t *testing.T) {
	const at = "pluginConfig[Gang].args"
	const wantKey = `want "nvlink" or a node label key such as topology.kubernetes.io/rack`
	many := make([]string, 17)
	for i := range many {
		many[i] = fmt.Sprintf("%q", fmt.Sprint("level", i))
	}
	tests := map[string]struct {
		args runtime.Object
		want string // the message, or its beginning where it ends in …
	}{
		"a field that is misspelt":       {raw(`{"topologyLevel":[]}`), at + `: strict decoding error: unknown field "topologyLevel"`},
		"a level that no label can be":   {raw(`{"topologyLevels":["zone","a b"]}`), at + `.topologyLevels[1]: Invalid value: "a b": ` + wantKey},
		"a level without a name":         {raw(`{"topologyLevels":[""]}`), at + `.topologyLevels[0]: Invalid value: "": ` + wantKey},
		"a level twice":                  {raw(`{"topologyLevels":["zone","rack","zone"]}`), at + `.topologyLevels[2]: Duplicate value: "zone"`},
		"more levels than anybody has":   {raw(`{"topologyLevels":[` + strings.Join(many, ",") + `]}`), at + `.topologyLevels: Too many: 17: must have at most 16 items`},
		"no time to wait":                {raw(`{"permitTimeoutSeconds":0}`), at + `.permitTimeoutSeconds: Invalid value: 0: want 1 to 900`},
		"more time than there is":        {raw(`{"permitTimeoutSeconds":901}`), at + `.permitTimeoutSeconds: Invalid value: 901: want 1 to 900`},
		"fewer than no retries":          {raw(`{"bindRetries":-1}`), at + `.bindRetries: Invalid value: -1: want 0 to 100`},
		"retries without an end":         {raw(`{"bindRetries":101}`), at + `.bindRetries: Invalid value: 101: want 0 to 100`},
		"an age below zero":              {raw(`{"agingSeconds":-1}`), at + `.agingSeconds: Invalid value: -1: want 0 or more`},
		"two faults":                     {raw(`{"bindRetries":-1,"agingSeconds":-1}`), "[" + at + `.bindRetries: …`},
		"a yes that is a string":         {raw(`{"backfill":"yes"}`), at + `: …`},
		"another kind":                   {raw(`{"apiVersion":"config.weft.sh/v1","kind":"GPUFitArgs"}`), at + `: want kind GangArgs, got *config.GPUFitArgs`},
		"an object of the other plugin":  {&config.GPUFitArgs{}, at + `: want GangArgs, got *config.GPUFitArgs`},
		"the versioned form, undecoded":  {&v1.GangArgs{}, at + `: want GangArgs, got *v1.GangArgs`},
		"an internal form without value": {&config.GangArgs{}, at + `.permitTimeoutSeconds: Invalid value: 0: want 1 to 900`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := GangArgs(tc.args)
			if err == nil {
				t.Fatalf("accepted as %+v", got)
			}
			text := err.Error()
			begin, some := strings.CutSuffix(tc.want, "…")
			if some && strings.HasPrefix(text, begin) {
				return
			}
			if diff := cmp.Diff(tc.want, text); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// Each form is turned into the other and back, also through text.
func TestGangArgsRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	for range 200 {
		levels := make([]string, r.IntN(4))
		for i := range levels {
			levels[i] = strings.Repeat("x", i+1)
		}
		internal := &config.GangArgs{
			TopologyLevels: levels, PermitTimeoutSeconds: r.Int32(), BindRetries: r.Int32(), Backfill: r.IntN(2) == 0, AgingSeconds: r.Int32(),
		}
		versioned, back := &v1.GangArgs{}, &config.GangArgs{}
		if err := Scheme.Convert(internal, versioned, nil); err != nil {
			t.Fatal(err)
		}
		if err := Scheme.Convert(versioned, back, nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(internal, back); diff != "" {
			t.Fatalf("-want +got\n%s", diff)
		}
		text, err := runtime.Encode(codecs.LegacyCodec(v1.SchemeGroupVersion), internal)
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := runtime.Decode(codecs.UniversalDecoder(), text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if diff := cmp.Diff(internal, decoded); diff != "" {
			t.Fatalf("%s: -want +got\n%s", text, diff)
		}
	}
}

func TestGangArgsAreNobodyElses(t *testing.T) {
	first, err := GangArgs(nil)
	if err != nil {
		t.Fatal(err)
	}
	first.TopologyLevels[0] = "changed"
	if second, err := GangArgs(nil); err != nil || second.TopologyLevels[0] != "nvlink" {
		t.Errorf("%v, %v: the default was changed by who got it before", second, err)
	}
	given := gangDefaults(nil)
	got, err := GangArgs(given)
	if err != nil {
		t.Fatal(err)
	}
	got.TopologyLevels[0] = "changed"
	if given.TopologyLevels[0] != "nvlink" {
		t.Error("the caller's levels were changed")
	}
}
