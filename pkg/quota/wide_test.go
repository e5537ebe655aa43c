package quota

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

var edges = []int64{0, 1, 2, 3600, 1 << 31, 1 << 32, 1<<53 + 1, 1 << 62, math.MaxInt64 - 1, math.MaxInt64}

func clamp(x *big.Int) int64 {
	switch {
	case x.IsInt64():
		return x.Int64()
	case x.Sign() < 0:
		return math.MinInt64
	default:
		return math.MaxInt64
	}
}

func TestWideIsExactWhateverTheOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	number := func() int64 {
		if r.IntN(2) == 0 {
			return edges[r.IntN(len(edges))]
		}
		return r.Int64() >> r.IntN(63)
	}
	for range 2000 {
		var w wide
		want := new(big.Int)
		type pair struct{ a, b int64 }
		var in []pair
		for range 20 {
			p := pair{number(), number() % maxHold}
			if r.IntN(3) == 0 {
				p.a = -p.a
			}
			in = append(in, p)
			w.add(p.a, p.b)
			want.Add(want, new(big.Int).Mul(big.NewInt(p.a), big.NewInt(p.b)))
			if got := w.value(); got != clamp(want) {
				t.Fatalf("%v: %d, want %d", in, got, clamp(want))
			}
		}
		var rate wide
		rate.add(number(), 1)
		rate.add(number(), 1)
		seconds := number() % maxHold
		product := rate
		both := w
		both.scale(rate, seconds)
		rates := new(big.Int).Add(new(big.Int).Mul(big.NewInt(product.hi), new(big.Int).Lsh(big.NewInt(1), 64)), new(big.Int).SetUint64(product.lo))
		if got, want := both.value(), clamp(new(big.Int).Add(want, rates.Mul(rates, big.NewInt(seconds)))); got != want {
			t.Fatalf("%v and %v x %d: %d, want %d", in, rate, seconds, got, want)
		}
		r.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
		for _, p := range in {
			w.sub(p.a, p.b)
		}
		if !w.zero() {
			t.Fatalf("%v is left of nothing", w)
		}
	}
}

func TestArithmeticStaysAtTheEnds(t *testing.T) {
	for _, a := range edges {
		for _, b := range edges {
			for _, sign := range []int64{1, -1} {
				for _, other := range []int64{1, -1} {
					x, y := sign*a, other*b
					want := clamp(new(big.Int).Add(big.NewInt(x), big.NewInt(y)))
					if got := plus(x, y); got != want {
						t.Errorf("plus(%d, %d) is %d, want %d", x, y, got, want)
					}
				}
			}
			for _, c := range edges[1:] {
				q, m := new(big.Int).QuoRem(new(big.Int).Mul(big.NewInt(a), big.NewInt(b)), big.NewInt(c), new(big.Int))
				if got := ratio(a, b, c, false); got != clamp(q) {
					t.Errorf("ratio(%d, %d, %d) is %d, want %d", a, b, c, got, clamp(q))
				}
				if m.Sign() > 0 {
					q.Add(q, big.NewInt(1))
				}
				if got := ratio(a, b, c, true); got != clamp(q) {
					t.Errorf("ratio(%d, %d, %d) up is %d, want %d", a, b, c, got, clamp(q))
				}
			}
		}
	}
	if got := plus(math.MinInt64, -1); got != math.MinInt64 {
		t.Errorf("the least less 1 is %d", got)
	}
}
