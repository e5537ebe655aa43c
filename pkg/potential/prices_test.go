package potential

import (
	"context"
	"math"
	"reflect"
	"testing"
)

func nodes(alike int, milliCPU int64, idle int) []Node {
	return []Node{{MilliCPU: milliCPU, Alike: alike, GPUs: []GPU{{Model: Model{Product: "T4"}, Cells: gpuCells, Idle: true, Count: idle}}}}
}

// expected is how many requests of each class fill the nodes at the prices, and how many should.
func expected(mix *Mix, n []Node, p Prices) (x, demand []float64) {
	m := newMarket(mix, n, &p)
	x = make([]float64, len(mix.classes))
	m.expect(x)
	return x, m.demand
}

func TestPricesBringWhatFillsTheNodesIntoTheProportionOfTheMix(t *testing.T) {
	mix := NewMix(map[Class]int64{share(300, 1_000): 6, share(500, 2_000): 3, whole(1, 8_000): 4, whole(4, 8_000): 1, cpuOnlyClass(4_000): 5})
	n := nodes(100, 96_000, 8)
	p := Solve(t.Context(), mix, n, Prices{}, 300)
	x, demand := expected(mix, n, p)
	var far float64
	before, _ := expected(mix, n, Prices{})
	for i := range x {
		if math.Abs(x[i]/demand[i]-1) > 0.1 {
			t.Errorf("%+v: %.1f of %.1f", mix.classes[i].Class, x[i], demand[i])
		}
		far = max(far, math.Abs(before[i]/demand[i]-1))
	}
	if far < 0.2 {
		t.Errorf("the first prices would do: at most %.2f off", far)
	}
}

func TestACoreIsDearWhereCPUIsScarce(t *testing.T) {
	counts := map[Class]int64{whole(1, 8_000): 4, share(500, 6_000): 4, cpuOnlyClass(8_000): 8}
	plenty := Solve(t.Context(), NewMix(counts), nodes(50, 512_000, 8), Prices{}, 300)
	scarce := Solve(t.Context(), NewMix(counts), nodes(50, 80_000, 8), Prices{}, 300)
	if plenty.core != lowestCore || scarce.core < 5*lowestCore {
		t.Errorf("a core is %.4f where there is plenty, %.4f where it is scarce", plenty.core, scarce.core)
	}
}

func TestPricesAreTheSameForTheSame(t *testing.T) {
	counts := map[Class]int64{}
	for i := range int64(60) {
		counts[share(50+10*i, 500*i)] = i
		counts[whole(1+int(i%8), 4_000*i)] = 1
	}
	n := append(nodes(3, 96_000, 8), nodes(5, 31_000, 2)...)
	first := Solve(t.Context(), NewMix(counts), n, Prices{}, 20)
	for range 5 {
		if again := Solve(t.Context(), NewMix(counts), n, Prices{}, 20); !reflect.DeepEqual(first, again) {
			t.Fatal("other prices the second time")
		}
	}
}

func TestPricesGoOnFromThoseBefore(t *testing.T) {
	mix := NewMix(map[Class]int64{share(300, 1_000): 6, whole(1, 8_000): 4})
	n := nodes(100, 96_000, 8)
	settled := Solve(t.Context(), mix, n, Prices{}, 300)
	more := Solve(t.Context(), mix, n, settled, 6)
	for c, price := range settled.classes {
		if math.Abs(more.classes[c]-price) > 0.005 {
			t.Errorf("%+v: from %.4f to %.4f", c, price, more.classes[c])
		}
	}
}

func TestPricesWithoutAnything(t *testing.T) {
	one := NewMix(map[Class]int64{whole(2, 1_000): 1})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, p := range map[string]Prices{
		"nothing is expected":     Solve(t.Context(), NewMix(nil), nodes(1, 1_000, 1), Prices{}, 10),
		"no nodes":                Solve(t.Context(), one, nil, Prices{}, 10),
		"nodes without GPUs":      Solve(t.Context(), one, []Node{{MilliCPU: 1_000, Alike: 4}}, Prices{}, 10),
		"nothing left":            Solve(t.Context(), one, []Node{{GPUs: []GPU{{Count: 8}}, Alike: 1}}, Prices{}, 10),
		"a class that never fits": Solve(t.Context(), one, nodes(10, 500, 1), Prices{}, 50),
		"no time":                 Solve(ended, one, nodes(10, 96_000, 8), Prices{}, 1<<30),
	} {
		for c, price := range p.classes {
			if math.IsNaN(price) || price < lowestPrice*2 || price > highestPrice*2 {
				t.Errorf("%s: %+v costs %g", name, c, price)
			}
		}
		if p.core < 0 || p.core > highestCore {
			t.Errorf("%s: a core costs %g", name, p.core)
		}
	}
}
