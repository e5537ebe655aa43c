package scheme

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"weft.sh/weft/pkg/apis/config"
	"weft.sh/weft/pkg/apis/config/v1"
)

func raw(text string) runtime.Object {
	return &runtime.Unknown{Raw: []byte(text), ContentType: runtime.ContentTypeJSON}
}

func TestGPUFitArgs(t *testing.T) {
	tests := map[string]struct {
		args runtime.Object
		want *config.GPUFitArgs
	}{
		"none":                        {nil, &config.GPUFitArgs{Strategy: "potential", MixWindow: 2048}},
		"empty":                       {&runtime.Unknown{}, &config.GPUFitArgs{Strategy: "potential", MixWindow: 2048}},
		"an empty object":             {raw(`{}`), &config.GPUFitArgs{Strategy: "potential", MixWindow: 2048}},
		"null, which is not given":    {raw(`{"strategy":null,"mixWindow":null}`), &config.GPUFitArgs{Strategy: "potential", MixWindow: 2048}},
		"one field":                   {raw(`{"strategy":"spread"}`), &config.GPUFitArgs{Strategy: "spread", MixWindow: 2048}},
		"the other":                   {raw(`{"mixWindow":16}`), &config.GPUFitArgs{Strategy: "potential", MixWindow: 16}},
		"all, with kind and version":  {raw(`{"apiVersion":"config.weft.sh/v1","kind":"GPUFitArgs","strategy":"bestfit","mixWindow":100000}`), &config.GPUFitArgs{Strategy: "bestfit", MixWindow: 100000}},
		"as YAML":                     {raw("strategy: bestfit\nmixWindow: 64\n"), &config.GPUFitArgs{Strategy: "bestfit", MixWindow: 64}},
		"in the internal form":        {&config.GPUFitArgs{Strategy: "spread", MixWindow: 17}, &config.GPUFitArgs{Strategy: "spread", MixWindow: 17}},
		"in a form without a content": {&runtime.Unknown{TypeMeta: runtime.TypeMeta{Kind: "GPUFitArgs"}}, &config.GPUFitArgs{Strategy: "potential", MixWindow: 2048}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := GPUFitArgs(tc.args)
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

func TestGPUFitArgsRefuses(t *testing.T) {
	const at = "pluginConfig[GPUFit].args"
	tests := map[string]struct {
		args runtime.Object
		want string // the message, or its beginning where it ends in …
	}{
		"a field that is misspelt":        {raw(`{"stratgy":"spread"}`), at + `: strict decoding error: unknown field "stratgy"`},
		"a field in another case":         {raw(`{"Strategy":"spread"}`), at + `: strict decoding error: unknown field "Strategy"`},
		"a field twice":                   {raw(`{"strategy":"spread","strategy":"bestfit"}`), at + `: strict decoding error: duplicate field "strategy"`},
		"a strategy that is not there":    {raw(`{"strategy":"best"}`), at + `.strategy: Unsupported value: "best": supported values: "potential", "fragmentation", "bestfit", "spread"`},
		"no strategy, said so":            {raw(`{"strategy":""}`), at + `.strategy: Unsupported value: "": supported values: "potential", "fragmentation", "bestfit", "spread"`},
		"a window that is too small":      {raw(`{"mixWindow":15}`), at + `.mixWindow: Invalid value: 15: want 16 to 100000`},
		"a window of nothing":             {raw(`{"mixWindow":0}`), at + `.mixWindow: Invalid value: 0: want 16 to 100000`},
		"a window that is too large":      {raw(`{"mixWindow":100001}`), at + `.mixWindow: Invalid value: 100001: want 16 to 100000`},
		"two faults":                      {raw(`{"strategy":"best","mixWindow":-1}`), "[" + at + `.strategy: Unsupported value: "best": supported values: "potential", "fragmentation", "bestfit", "spread", ` + at + `.mixWindow: Invalid value: -1: want 16 to 100000]`},
		"a number that is a string":       {raw(`{"mixWindow":"16"}`), at + `: …`},
		"a number that is too large":      {raw(`{"mixWindow":99999999999}`), at + `: …`},
		"another kind":                    {raw(`{"apiVersion":"config.weft.sh/v1","kind":"GangArgs"}`), at + `: want kind GPUFitArgs, got *config.GangArgs`},
		"a kind that nobody knows":        {raw(`{"apiVersion":"config.weft.sh/v1","kind":"FitArgs"}`), at + `: no kind "FitArgs" is registered for version "config.weft.sh/v1" in scheme …`},
		"another version":                 {raw(`{"apiVersion":"config.weft.sh/v9","kind":"GPUFitArgs"}`), at + `: no kind "GPUFitArgs" is registered for version "config.weft.sh/v9" in scheme …`},
		"no JSON":                         {raw(`{`), at + `: …`},
		"a list":                          {raw(`[]`), at + `: …`},
		"an internal form without values": {&config.GPUFitArgs{}, "[" + at + `.strategy: Unsupported value: ""…`},
		"an object that is no args":       {&other{}, at + `: want GPUFitArgs, got *scheme.other`},
		"the versioned form, undecoded":   {&v1.GPUFitArgs{}, at + `: want GPUFitArgs, got *v1.GPUFitArgs`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := GPUFitArgs(tc.args)
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

type other struct{ config.GPUFitArgs }

func (o *other) GetObjectKind() schema.ObjectKind { return &o.TypeMeta }
func (o *other) DeepCopyObject() runtime.Object   { return &other{*o.GPUFitArgs.DeepCopy()} }

// Each form is turned into the other and back.
func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for range 200 {
		strategy := strings.Repeat("x", r.IntN(4))
		window := r.Int32() - 1<<30
		versioned := &v1.GPUFitArgs{Strategy: &strategy, MixWindow: &window}
		internal, back := &config.GPUFitArgs{}, &v1.GPUFitArgs{}
		if err := Scheme.Convert(versioned, internal, nil); err != nil {
			t.Fatal(err)
		}
		if internal.Strategy != strategy || internal.MixWindow != window {
			t.Fatalf("%q and %d became %+v", strategy, window, internal)
		}
		if err := Scheme.Convert(internal, back, nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(versioned, back); diff != "" {
			t.Fatalf("-want +got\n%s", diff)
		}
		// Through text.
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

func TestDefaultsFillInWhatWasLeftOutOnly(t *testing.T) {
	tests := map[string]struct{ args, want v1.GPUFitArgs }{
		"nothing was given":  {v1.GPUFitArgs{}, v1.GPUFitArgs{Strategy: new("potential"), MixWindow: new(int32(2048))}},
		"all was given":      {v1.GPUFitArgs{Strategy: new("spread"), MixWindow: new(int32(16))}, v1.GPUFitArgs{Strategy: new("spread"), MixWindow: new(int32(16))}},
		"a zero was given":   {v1.GPUFitArgs{Strategy: new(""), MixWindow: new(int32(0))}, v1.GPUFitArgs{Strategy: new(""), MixWindow: new(int32(0))}},
		"the strategy alone": {v1.GPUFitArgs{Strategy: new("bestfit")}, v1.GPUFitArgs{Strategy: new("bestfit"), MixWindow: new(int32(2048))}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			Scheme.Default(&tc.args)
			if diff := cmp.Diff(tc.want, tc.args); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestDefaultsAreValid(t *testing.T) {
	if _, err := GPUFitArgs(nil); err != nil {
		t.Error(err)
	}
}

func TestCopiesShareNothing(t *testing.T) {
	versioned := &v1.GPUFitArgs{Strategy: new("spread"), MixWindow: new(int32(16))}
	clone := versioned.DeepCopy()
	*clone.Strategy, *clone.MixWindow = "bestfit", 17
	if *versioned.Strategy != "spread" || *versioned.MixWindow != 16 {
		t.Errorf("a change of the copy changed the original: %s, %d", *versioned.Strategy, *versioned.MixWindow)
	}
	internal := &config.GPUFitArgs{}
	if err := Scheme.Convert(versioned, internal, nil); err != nil {
		t.Fatal(err)
	}
	*versioned.Strategy = "changed"
	if internal.Strategy != "spread" {
		t.Error("a change of the versioned form changed the internal one")
	}
}
