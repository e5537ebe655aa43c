package migsim

import (
	"math"
	"slices"
)

// bound is more than, or as much as, the value of the pods that any policy whatever can accept: one that knows all that comes, moves
// pods at will and refuses pods that fit to have room for others, and so also one that does none of it.
//
// Let pod j have value v_j and class c_j, let it be there at the arrivals numbered from j up to but not including e_j if it is
// accepted, and let row k with weights w_k and capacity C_k (of all GPUs together) hold for everything that fits on the GPUs. Whatever
// is accepted, x_j being 1 for a pod that is and else 0, what is there at each arrival t fits, so for all t and k
//
//	Σ_{j <= t < e_j} w_k(c_j) x_j <= C_k
//
// Multiply each of these with a price p_kt >= 0 and add them to the value that is accepted:
//
//	Σ_j v_j x_j <= Σ_j v_j x_j + Σ_kt p_kt (C_k - Σ_{j <= t < e_j} w_k(c_j) x_j)
//	             = Σ_kt p_kt C_k + Σ_j x_j (v_j - Σ_k w_k(c_j) Σ_{j <= t < e_j} p_kt)
//	            <= Σ_kt p_kt C_k + Σ_j max(0, v_j - Σ_k w_k(c_j) Σ_{j <= t < e_j} p_kt)
//
// The last line is the bound, at any prices. Good ones are found by Shor's subgradient method with Polyak's step; the least there are
// give the optimum of the linear programme that lets pods be accepted in parts.
type bound struct {
	rows  []row
	gpus  float64
	class []int     // of each pod
	value []float64 // of each pod
	until []int     // e_j
}

// rounds of the subgradient method: as many more lower the bounds by less than a tenth of a point.
const rounds = 600

// newBound is the bound for the pods, which are by time; class tells them apart for the rows.
func newBound(rows []row, gpus int, pods []pod, class func(*pod) int, value func(*pod) float64) *bound {
	b := &bound{rows: rows, gpus: float64(gpus), until: make([]int, len(pods))}
	for j := range pods {
		p := &pods[j]
		v := 0.0
		if p.measured {
			v = value(p)
		}
		b.class, b.value = append(b.class, class(p)), append(b.value, v)
		e, _ := slices.BinarySearchFunc(pods, p.until, func(q pod, until float64) int {
			if q.at < until {
				return -1
			}
			return 1
		})
		b.until[j] = max(e, j+1)
	}
	return b
}

// solve is the bound at the best prices found. accepted is what some policy has accepted, for the length of the steps.
func (b *bound) solve(accepted float64) float64 {
	n := len(b.class)
	prices := make([][]float64, len(b.rows))
	sums := make([][]float64, len(b.rows)) // of the prices before each arrival
	slack := make([][]float64, len(b.rows))
	for k := range b.rows {
		prices[k], sums[k], slack[k] = make([]float64, n), make([]float64, n+1), make([]float64, n+1)
	}
	best, length, since := math.Inf(1), 1.0, 0
	for range rounds {
		total := 0.0
		for k, r := range b.rows {
			clear(slack[k])
			for t, p := range prices[k] {
				sums[k][t+1] = sums[k][t] + p
			}
			total += sums[k][n] * r.capacity * b.gpus
		}
		for j, v := range b.value {
			for k := range b.rows {
				v -= b.rows[k].weights[b.class[j]] * (sums[k][b.until[j]] - sums[k][j])
			}
			if v <= 0 {
				continue
			}
			total += v
			for k := range b.rows {
				w := b.rows[k].weights[b.class[j]]
				slack[k][j] -= w
				slack[k][b.until[j]] += w
			}
		}
		if total < best {
			if total > best-1e-4*math.Abs(best) {
				since++
			} else {
				since = 0
			}
			best = total
		} else {
			since++
		}
		if since > 10 {
			length, since = length/2, 0
		}
		norm := 0.0
		for k, r := range b.rows {
			used := 0.0
			for t := range n {
				used += slack[k][t]
				slack[k][t] = r.capacity*b.gpus + used
				if prices[k][t] > 0 || slack[k][t] < 0 {
					norm += slack[k][t] * slack[k][t]
				}
			}
		}
		if norm == 0 || total <= accepted {
			break
		}
		step := length * (total - accepted) / norm
		for k := range b.rows {
			for t := range n {
				prices[k][t] = max(0, prices[k][t]-step*slack[k][t])
			}
		}
	}
	return best
}

// shareRows hold for shares that fit on one GPU together, for each size of the mix, by its part of the GPU. Their sum is at most 1. So
// it is when those above 1-e count as 1 and those below e as nothing, for e up to a half. And so it is when each counts as
// floor(n x)/(n-1) instead of x, but as x where n x is whole. These are dual feasible functions (Fekete and Schepers, "New classes of
// fast lower bounds for bin packing problems", Mathematical Programming 91, 2001).
func shareRows(m Mix) []row {
	const whole = 1000
	var out []row
	add := func(weight func(milli int64) float64) {
		r := row{capacity: 1}
		for _, p := range m {
			r.weights = append(r.weights, weight(p.MilliGPU))
		}
		out = append(out, r)
	}
	for _, e := range []int64{0, 100, 200, 250, 300, 333, 400, 450, 500} {
		add(func(milli int64) float64 {
			switch {
			case milli > whole-e:
				return 1
			case milli < e:
				return 0
			}
			return float64(milli) / whole
		})
	}
	for n := int64(2); n <= 6; n++ {
		add(func(milli int64) float64 {
			if milli*n%whole == 0 {
				return float64(milli) / whole
			}
			return float64(milli*n/whole) / float64(n-1)
		})
	}
	return out
}
