package nvlink

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"weft.sh/weft/pkg/gpu"
)

func TestIdeal(t *testing.T) {
	all := Of(0, 1, 2, 3, 4, 5, 6, 7)
	for name, tc := range map[string]struct {
		devices []gpu.Device
		from    Set
		count   int
		want    Bandwidth
	}{
		"switches all reach each other":     {switches(18, 18, 18, 0, 18, 17, 18, 18), all, 8, 72},
		"what is free of them, too":         {switches(18, 18, 18, 0, 18, 17, 18, 18), Of(3, 5), 2, 68},
		"not as many":                       {switches(18, 18, 18, 0, 18, 17, 18, 18), Of(0), 2, 0},
		"one GPU needs no link":             {switches(18, 18, 18, 0, 18, 17, 18, 18), all, 1, Unbounded},
		"direct links lead where they lead": {dgx1(), all, 2, 8},
		"a group of four":                   {dgx1(), all, 4, 4},
		"more than a group":                 {dgx1(), all, 5, Far},
		"all alike":                         {switches(9, 9, 9, 9), Of(0, 1, 2, 3), 3, 36},
		"all alike: not as many":            {switches(9, 9, 9, 9), Of(0, 3), 3, 0},
		"nothing known":                     {node(4, func(int) *gpu.Hardware { return nil }), Of(0, 1, 2), 2, Far},
	} {
		t.Run(name, func(t *testing.T) {
			if got := New(tc.devices).Ideal(tc.from, tc.count); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

// A graph of nothing, or of more GPUs than there can be, is answered for.
func TestWithoutAGraph(t *testing.T) {
	for name, devices := range map[string][]gpu.Device{
		"none": nil, "one": switches(18), "too many": tree(MaxGPUs+1, 2),
	} {
		g := New(devices)
		if !g.Uniform() || len(g.AppendKey(nil)) > 0 {
			t.Errorf("%s: it tells GPUs apart", name)
		}
		if got := g.Best(Of(0, 2, 5), Choice{Of(0, 2, 5), 2}); got != Of(0, 2) {
			t.Errorf("%s: got %v, want the first", name, positions(got))
		}
		if worst, total := g.Worst(Of(0, 2, 5)), g.Total(Of(0, 2, 5)); worst != Far || total != 3*int(Far) {
			t.Errorf("%s: the worst link is %d, the total %d", name, worst, total)
		}
	}
}

// Graphs of equal keys must choose the same, and measure loss by the same.
func TestKeysTellGraphsApart(t *testing.T) {
	direct := peers(func(i, j int) int {
		if i != j && i < 3 && j < 3 {
			return 18
		}
		return 0
	}, 4)
	if a, b := New(direct).AppendKey(nil), New(switches(18, 18, 18, 0)).AppendKey(nil); bytes.Equal(a, b) {
		t.Error("the same key for switches, one GPU being off them, and for direct links among three")
	}
	seen := map[string][]gpu.Device{}
	same := 0
	rounds(t, 2000, func(t *testing.T, r *rand.Rand) {
		devices := randomDevices(r, 3)
		g := New(devices)
		key := string(g.AppendKey([]byte("x")))
		other, ok := seen[key]
		seen[key] = devices
		if !ok {
			return
		}
		same++
		o := New(other)
		for free := Set(1); free < 8; free++ {
			for count := 1; count <= free.Len(); count++ {
				if a, b := g.Best(free, Choice{free, count}), o.Best(free, Choice{free, count}); a != b {
					t.Errorf("one key; of %b, %d: %b and %b", free, count, a, b)
				}
				lost := func(g *Graph) bool { return g.Widest(free, count) < g.Ideal(Of(0, 1, 2), count) }
				if !g.Uniform() && lost(g) != lost(o) {
					t.Errorf("one key; of %b, %d: something is lost, and nothing", free, count)
				}
			}
		}
	})
	t.Logf("%d keys, %d times one of before", len(seen), same)
	if same == 0 || len(seen) < 10 {
		t.Error("the test compares nothing")
	}
}

// GPUs that are interchangeable are recognised, which is what keeps the search short.
func TestTwins(t *testing.T) {
	for name, tc := range map[string]struct {
		devices []gpu.Device
		want    []Set // of GPU 0, 1, …
	}{
		"switches, a link down": {switches(18, 17, 18, 18), []Set{Of(0, 2, 3), Of(1), Of(0, 2, 3), Of(0, 2, 3)}},
		"sockets":               {tree(4, 2), []Set{Of(0, 1), Of(0, 1), Of(2, 3), Of(2, 3)}},
		"bridges":               {bridged(4), []Set{Of(0, 1), Of(0, 1), Of(2, 3), Of(2, 3)}},
	} {
		g := New(tc.devices)
		for i, want := range tc.want {
			if g.twins[i] != want {
				t.Errorf("%s: GPU %d is like %v, want %v", name, i, positions(g.twins[i]), positions(want))
			}
		}
	}
}
