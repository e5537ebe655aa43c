package simulator

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/mat"
	"gonum.org/v1/gonum/optimize/convex/lp"
)

// programme is a linear programme whose columns come one after another:
//
//	max values·x    columns x <= limits, x >= 0, where all limits are above 0
type programme struct {
	limits  []float64
	values  []float64
	columns [][]float64
}

// add reports whether the column is a new one; one that is there already is not added.
func (p *programme) add(value float64, column []float64) bool {
	if slices.ContainsFunc(p.columns, func(c []float64) bool { return slices.Equal(c, column) }) {
		return false
	}
	p.values = append(p.values, value)
	p.columns = append(p.columns, column)
	return true
}

// perturbation is by how much limits are raised, at most and in proportion, each a little differently: then no two ways of
// filling them are equal, the solver cannot turn in circles, and the columns in use tell the basis.
const perturbation = 1e-7

// solve returns the optimum and the prices of the limits, at least 0 each. The optimum is that of limits that are a little
// higher; see perturbation.
//
// gonum's solver tells the solution but no prices. They follow from the columns that are in use: at the prices each of them
// is worth just what it costs.
func (p *programme) solve() (optimum float64, prices []float64, err error) {
	rows, columns := len(p.limits), len(p.columns)
	a := mat.NewDense(rows, columns+rows, nil)
	cost := make([]float64, columns+rows)
	limits := make([]float64, rows)
	basis := make([]int, rows)
	for j, column := range p.columns {
		cost[j] = -p.values[j]
		a.SetCol(j, column)
	}
	for i := range rows {
		_, part := math.Modf(float64(i+1) * math.Phi)
		limits[i] = p.limits[i] * (1 + perturbation*(1+part))
		a.Set(i, columns+i, 1) // what is left of the limit
		basis[i] = columns + i
	}
	negative, x, err := lp.Simplex(cost, a, limits, 1e-10, basis)
	if err != nil {
		return 0, nil, fmt.Errorf("%d rows, %d columns: %w", rows, columns, err)
	}
	order := make([]int, len(x))
	for j := range order {
		order[j] = j
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(x[j], x[i]) })
	used := mat.NewDense(rows, rows, nil)
	worth := mat.NewVecDense(rows, nil)
	for k, j := range order[:rows] {
		for i := range rows {
			used.Set(k, i, a.At(i, j))
		}
		worth.SetVec(k, -cost[j])
	}
	var solved mat.VecDense
	if err := solved.SolveVec(used, worth); err != nil {
		return 0, nil, fmt.Errorf("prices of %d rows, %d columns: %w", rows, columns, err)
	}
	prices = make([]float64, rows)
	for i := range prices {
		prices[i] = max(0, solved.AtVec(i))
	}
	return -negative, prices, nil
}
