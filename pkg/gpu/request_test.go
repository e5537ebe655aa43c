package gpu

import (
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	askWhole = Ask{Kind: Whole, Count: 1}
	askShare = Ask{Kind: Shared, Count: 1, MilliGPU: 250}
	askMIG   = Ask{Kind: MIG, Count: 1, Profile: "1g.10gb"}
)

func container(name string, asks ...Ask) ContainerRequest {
	return ContainerRequest{Name: name, Asks: asks}
}

func setup(name string, asks ...Ask) ContainerRequest {
	return ContainerRequest{Name: name, Init: true, Asks: asks}
}

func requested(c ...ContainerRequest) Request { return Request{Containers: c} }

func TestAskValidate(t *testing.T) {
	tests := map[string]struct {
		ask  Ask
		want string // "<nil>" for a sound one
	}{
		"one whole GPU":             {askWhole, "<nil>"},
		"a whole GPU of some size":  {Ask{Kind: Whole, Count: 8, MemoryMiB: 40960}, "<nil>"},
		"the smallest share":        {Ask{Kind: Shared, Count: 1, MilliGPU: 1}, "<nil>"},
		"the largest share":         {Ask{Kind: Shared, Count: MaxCount, MilliGPU: 1000, MemoryMiB: MaxMemoryMiB}, "<nil>"},
		"a MIG instance":            {askMIG, "<nil>"},
		"nothing":                   {Ask{}, "count 0: want 1 to 4096"},
		"a negative count":          {Ask{Kind: Whole, Count: -1}, "count -1: want 1 to 4096"},
		"a count of any size":       {Ask{Kind: Whole, Count: math.MaxInt}, fmt.Sprintf("count %d: want 1 to 4096", math.MaxInt)},
		"a negative floor":          {Ask{Kind: Whole, Count: 1, MemoryMiB: -1}, "memory floor -1 MiB: want 0 to 1073741824"},
		"a floor of any size":       {Ask{Kind: Whole, Count: 1, MemoryMiB: math.MaxInt64}, "memory floor 9223372036854775807 MiB: want 0 to 1073741824"},
		"no kind":                   {Ask{Count: 1}, "unknown kind Kind(0)"},
		"an unknown kind":           {Ask{Kind: 4, Count: 1}, "unknown kind Kind(4)"},
		"a whole GPU with a share":  {Ask{Kind: Whole, Count: 1, MilliGPU: 1000}, "whole GPUs have neither share nor profile"},
		"a whole GPU of a profile":  {Ask{Kind: Whole, Count: 1, Profile: "7g.80gb"}, "whole GPUs have neither share nor profile"},
		"a share of nothing":        {Ask{Kind: Shared, Count: 1}, "share 0 milli-GPU: want 1 to 1000"},
		"a negative share":          {Ask{Kind: Shared, Count: 1, MilliGPU: -1}, "share -1 milli-GPU: want 1 to 1000"},
		"a share of more than one":  {Ask{Kind: Shared, Count: 1, MilliGPU: 1001}, "share 1001 milli-GPU: want 1 to 1000"},
		"a share of a profile":      {Ask{Kind: Shared, Count: 1, MilliGPU: 1, Profile: "1g.10gb"}, "a share has no MIG profile"},
		"a MIG instance of nothing": {Ask{Kind: MIG, Count: 1}, `MIG profile "": want a name such as 1g.10gb`},
		"a share of an instance":    {Ask{Kind: MIG, Count: 1, Profile: "1g.10gb", MilliGPU: 1}, "a MIG instance has neither share nor memory floor: its profile says both"},
		"a floor of an instance":    {Ask{Kind: MIG, Count: 1, Profile: "1g.10gb", MemoryMiB: 1}, "a MIG instance has neither share nor memory floor: its profile says both"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, fmt.Sprint(tc.ask.Validate())); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestRequestValidate(t *testing.T) {
	tests := map[string]struct {
		request Request
		want    string
	}{
		"nothing": {Request{}, "<nil>"},
		"everything": {
			Request{
				Containers: []ContainerRequest{
					setup("setup", askShare), container("a", askWhole, askMIG, Ask{Kind: MIG, Count: 2, Profile: "2g.20gb"}), container("b", askShare),
				},
				Products: []string{"A100", "H100"},
			},
			"<nil>",
		},
		"a container that stands twice":        {requested(container("a", askWhole), setup("a", askWhole)), `container "a" stands twice in the request`},
		"a container that asks for nothing":    {requested(container("a")), `container "a" asks for nothing`},
		"an ask that is not valid":             {requested(container("a", askWhole, Ask{Kind: Whole})), `container "a": count 0: want 1 to 4096`},
		"whole GPUs asked for twice":           {requested(container("a", askWhole, Ask{Kind: Whole, Count: 2})), `container "a" asks twice: for 2 whole GPUs beside another of the kind`},
		"shares asked for twice":               {requested(container("a", askShare, Ask{Kind: Shared, Count: 1, MilliGPU: 1})), `container "a" asks twice: for 0.1% of 1 GPU beside another of the kind`},
		"a profile asked for twice":            {requested(container("a", askMIG, askMIG)), `container "a" asks twice: for 1 x 1g.10gb beside another of the kind`},
		"products that are not sorted":         {Request{Containers: requested(container("a", askWhole)).Containers, Products: []string{"b", "a"}}, `products ["b" "a"] are not sorted`},
		"the same ask in different containers": {requested(container("a", askShare), container("b", askShare)), "<nil>"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, fmt.Sprint(tc.request.Validate())); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestSatisfiedBy(t *testing.T) {
	two := Ask{Kind: Shared, Count: 2, MilliGPU: 250, MemoryMiB: 10}
	tests := map[string]struct {
		request Request
		text    string
		want    bool
	}{
		"nothing by nothing":                          {Request{}, "", true},
		"nothing by something":                        {Request{}, "a=g", false},
		"something by nothing":                        {requested(container("a", askWhole)), "", false},
		"a whole GPU":                                 {requested(container("a", askWhole)), "a=g", true},
		"a whole GPU for another container":           {requested(container("a", askWhole)), "b=g", false},
		"a whole GPU for an init container":           {requested(container("a", askWhole)), "~a=g", false},
		"an init container's whole GPU for another":   {requested(setup("a", askWhole)), "a=g", false},
		"a share instead of a whole GPU":              {requested(container("a", askWhole)), "a=g:1000m/1Mi", false},
		"a whole GPU instead of a share":              {requested(container("a", Ask{Kind: Shared, Count: 1, MilliGPU: 1000})), "a=g", false},
		"an instance instead of a whole GPU":          {requested(container("a", askWhole)), "a=g:7g.80gb@0:8", false},
		"too few":                                     {requested(container("a", Ask{Kind: Whole, Count: 2})), "a=g", false},
		"too many":                                    {requested(container("a", askWhole)), "a=g,h", false},
		"a share":                                     {requested(container("a", askShare)), "a=g:250m/1Mi", true},
		"a smaller share":                             {requested(container("a", askShare)), "a=g:249m/1Mi", false},
		"a larger share":                              {requested(container("a", askShare)), "a=g:251m/1Mi", false},
		"memory below the floor":                      {requested(container("a", two)), "a=g:250m/9Mi,h:250m/10Mi", false},
		"memory above the floor":                      {requested(container("a", two)), "a=g:250m/10Mi,h:250m/99Mi", true},
		"two shares of one GPU where two were wanted": {requested(container("a", two)), "a=g:250m/10Mi,g:250m/10Mi", false},
		"shares of one GPU for two containers":        {requested(container("a", askShare), container("b", askShare)), "a=g:250m/1Mi;b=g:250m/1Mi", true},
		"containers in another order":                 {requested(container("a", askShare), container("b", askShare)), "b=g:250m/1Mi;a=g:250m/1Mi", false},
		"instances":                                   {requested(container("a", Ask{Kind: MIG, Count: 2, Profile: "1g.10gb"})), "a=g:1g.10gb@0:1,g:1g.10gb@1:1", true},
		"an instance of another profile":              {requested(container("a", askMIG)), "a=g:1g.10gb+me@0:1", false},
		"two profiles and a whole GPU, grants in any order": {
			requested(container("a", askWhole, askMIG, Ask{Kind: MIG, Count: 1, Profile: "2g.20gb"})), "a=g:2g.20gb@0:2,h,i:1g.10gb@6:1", true,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			a, err := ParseAssignment(tc.text)
			if err != nil {
				t.Fatal(err)
			}
			if err := tc.request.Validate(); err != nil {
				t.Fatal(err)
			}
			if got := tc.request.SatisfiedBy(a); got != tc.want {
				t.Errorf("%s satisfies %+v: %t, want %t", tc.text, tc.request, got, tc.want)
			}
		})
	}
}

func TestMilliGPUIsTheMostHeldAtAnyTime(t *testing.T) {
	shareOf := func(count int, milli int64) Ask { return Ask{Kind: Shared, Count: count, MilliGPU: milli} }
	tests := map[string]struct {
		request Request
		want    int64
	}{
		"nothing":                             {Request{}, 0},
		"whole GPUs and shares add up":        {requested(container("a", Ask{Kind: Whole, Count: 2}), container("b", shareOf(3, 100))), 2300},
		"instances do not count":              {requested(container("a", askMIG)), 0},
		"a smaller init container":            {requested(setup("i", askShare), container("a", shareOf(1, 300))), 300},
		"a larger init container":             {requested(setup("i", askWhole), container("a", shareOf(1, 300))), 1000},
		"init containers do not add up":       {requested(setup("i", shareOf(1, 400)), setup("j", shareOf(1, 500))), 500},
		"a sidecar before the init container": {requested(container("s", shareOf(1, 200)), setup("i", askWhole), container("a", shareOf(1, 300))), 1200},
		"a sidecar after the init container":  {requested(setup("i", askWhole), container("s", shareOf(1, 200)), container("a", shareOf(1, 300))), 1000},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tc.request.MilliGPU(); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func TestShareMemory(t *testing.T) {
	tests := map[string]struct {
		ask    Ask
		device int64
		want   int64
	}{
		"its part":                              {askShare, 81920, 20480},
		"rounded down":                          {Ask{Kind: Shared, MilliGPU: 333}, 1001, 333},
		"all of it":                             {Ask{Kind: Shared, MilliGPU: 1000}, 81559, 81559},
		"the floor where it is more":            {Ask{Kind: Shared, MilliGPU: 250, MemoryMiB: 20481}, 81920, 20481},
		"the part where it is more":             {Ask{Kind: Shared, MilliGPU: 250, MemoryMiB: 20479}, 81920, 20480},
		"never nothing, for nobody has nothing": {Ask{Kind: Shared, MilliGPU: 1}, 999, 1},
		"the largest GPU does not overflow":     {Ask{Kind: Shared, MilliGPU: 999}, MaxMemoryMiB, 1072668082},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tc.ask.ShareMemoryMiB(tc.device); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func TestTexts(t *testing.T) {
	tests := map[string]fmt.Stringer{
		"1 whole GPU":                             askWhole,
		"2 whole GPUs with at least 40 MiB each":  Ask{Kind: Whole, Count: 2, MemoryMiB: 40},
		"25% of 1 GPU":                            askShare,
		"12.5% of 2 GPUs":                         Ask{Kind: Shared, Count: 2, MilliGPU: 125},
		"0.1% of 1 GPU with at least 10 MiB each": Ask{Kind: Shared, Count: 1, MilliGPU: 1, MemoryMiB: 10},
		"3 x 1g.10gb+me":                          Ask{Kind: MIG, Count: 3, Profile: "1g.10gb+me"},
		"whole":                                   Whole,
		"shared":                                  Shared,
		"mig":                                     MIG,
		"Kind(0)":                                 Kind(0),
		"3g.40gb@4:4":                             Instance{"3g.40gb", 4, 4},
		"GPU-1:250m/7Mi":                          share("GPU-1", 250, 7),
	}
	for want, v := range tests {
		if got := v.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAccepts(t *testing.T) {
	r := Request{Products: []string{"A100", "H100"}}
	for product, want := range map[string]bool{"A100": true, "H100": true, "A10": false, "": false, "a100": false} {
		if got := r.Accepts(product); got != want {
			t.Errorf("accepts %q: %t", product, got)
		}
	}
	if !(Request{}).Accepts("anything") || !(Request{Products: []string{}}).Accepts("") {
		t.Error("a request without products refuses one")
	}
}

func TestShapeTellsNeighboursApart(t *testing.T) {
	base := func() Request {
		return Request{Containers: []ContainerRequest{container("a", askShare)}, Products: []string{"A100"}}
	}
	shapes := map[string]string{base().Shape(): "the same"}
	for name, change := range map[string]func(*Request){
		"another container":     func(r *Request) { r.Containers[0].Name = "b" },
		"an init container":     func(r *Request) { r.Containers[0].Init = true },
		"another kind":          func(r *Request) { r.Containers[0].Asks[0].Kind = Whole },
		"another count":         func(r *Request) { r.Containers[0].Asks[0].Count = 2 },
		"another share":         func(r *Request) { r.Containers[0].Asks[0].MilliGPU = 2 },
		"another floor":         func(r *Request) { r.Containers[0].Asks[0].MemoryMiB = 2 },
		"another profile":       func(r *Request) { r.Containers[0].Asks[0].Profile = "1g.5gb" },
		"one ask more":          func(r *Request) { r.Containers[0].Asks = []Ask{askShare, askShare} },
		"one container more":    func(r *Request) { r.Containers = append(r.Containers, container("b", askShare)) },
		"another product":       func(r *Request) { r.Products[0] = "A10" },
		"one product more":      func(r *Request) { r.Products = []string{"A100", "H100"} },
		"no product":            func(r *Request) { r.Products = nil },
		"a product with a name": func(r *Request) { r.Products[0] = `A100""H100` },
	} {
		r := base()
		change(&r)
		if other, ok := shapes[r.Shape()]; ok {
			t.Errorf("%s has the shape of %s: %s", name, other, r.Shape())
		}
		shapes[r.Shape()] = name
	}
}
