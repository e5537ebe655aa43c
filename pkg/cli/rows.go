package cli

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/ledger/ledgerhttp"
)

// match is a condition on rows: the value of a dimension.
type match struct {
	dimension ledger.Dimension
	value     string
}

// parseMatch reads DIMENSION=VALUE. The value may be empty: what has none.
func parseMatch(text string) (match, error) {
	dimension, value, ok := strings.Cut(text, "=")
	m := match{ledger.Dimension(dimension), value}
	if !ok || !ledgerhttp.KnownDimension(m.dimension) {
		return m, fmt.Errorf("--where is %q: want DIMENSION=VALUE, of %s or label:KEY", text, strings.Join(ledgerhttp.Dimensions(), ", "))
	}
	return m, nil
}

// dimensionOf is what a row has of a dimension, as the ledger adds up by it.
func dimensionOf(s *ledger.Segment, d ledger.Dimension) string {
	switch d {
	case "queue":
		return s.Queue
	case "namespace":
		return s.Namespace
	case "user":
		return s.User
	case "workload":
		return s.Workload
	case "class":
		return s.Class
	case "product":
		return s.Product
	case "profile":
		return s.Profile
	case "currency":
		return s.Currency
	}
	return s.Labels[strings.TrimPrefix(string(d), "label:")]
}

// matching are the rows that meet all conditions.
func matching(rows iter.Seq2[ledger.Segment, error], where []match) iter.Seq2[ledger.Segment, error] {
	return func(yield func(ledger.Segment, error) bool) {
		for s, err := range rows {
			if err == nil && slices.ContainsFunc(where, func(m match) bool { return dimensionOf(&s, m.dimension) != m.value }) {
				continue
			}
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}

// rowSum adds rows up as a report does, so that the two can be compared: costs are rounded once.
type rowSum struct {
	ledger.Total
	cost map[string]*big.Int // price times milli-GPU-seconds, by currency
	last string
}

func (r *rowSum) add(s *ledger.Segment) error {
	t := ledger.Total{Segments: 1, MilliGPUSeconds: s.MilliGPUSeconds()}
	if s.PodUID != r.last {
		r.last, t.Pods = s.PodUID, 1
	}
	if s.Startup {
		t.StartupMilliGPUSeconds = t.MilliGPUSeconds
	}
	if s.Estimated {
		t.EstimatedMilliGPUSeconds = t.MilliGPUSeconds
	}
	if r.cost == nil {
		r.cost = map[string]*big.Int{}
	}
	if r.cost[s.Currency] == nil {
		r.cost[s.Currency] = new(big.Int)
	}
	if s.Charged {
		t.ChargedMilliGPUSeconds = s.Rate * (s.Through - s.Start)
		r.cost[s.Currency].Add(r.cost[s.Currency], new(big.Int).Mul(big.NewInt(t.MilliGPUSeconds), big.NewInt(s.PriceMicros)))
	}
	return addTotal(&r.Total, t)
}

// costMicros is the cost in a currency, in millionths, rounded half up.
func (r *rowSum) costMicros(currency string) int64 {
	sum := r.cost[currency]
	if sum == nil {
		return 0
	}
	return new(big.Int).Div(new(big.Int).Add(sum, big.NewInt(milliGPUSecondsPerHour/2)), big.NewInt(milliGPUSecondsPerHour)).Int64()
}

// costs are the costs for people, in each currency.
func (r *rowSum) costs() string {
	var parts []string
	for _, currency := range slices.Sorted(maps.Keys(r.cost)) {
		if m := money(r.costMicros(currency), currency); m != "" {
			parts = append(parts, m)
		}
	}
	return strings.Join(parts, " and ")
}

// maxRows is how many rows a table shows. Columns cannot be lined up before the last row is known; the other formats have no end.
const maxRows = 10_000

// RenderRows prints rows for people, and their sum.
func RenderRows(w io.Writer, rows iter.Seq2[ledger.Segment, error], location *time.Location, colour, ascii bool) error {
	s := style{colour: colour, ascii: ascii}
	t := &table{
		header: []string{"POD", "ROW", "QUEUE", "CLASS", "WORKLOAD", "GPUS", "RATE", "FROM", "TO", "GPU-HOURS", "COST", "STATE"},
		right:  []int{1, 5, 6, 9, 10},
	}
	var sum rowSum
	for r, err := range rows {
		if err != nil {
			return err
		}
		if err := sum.add(&r); err != nil {
			return err
		}
		if sum.Segments > maxRows {
			continue
		}
		one := rowSum{}
		if err := one.add(&r); err != nil {
			return err
		}
		t.row(r.Namespace+"/"+r.Pod, strconv.Itoa(int(r.Number)), orNone(r.Queue), orNone(r.Class), r.Workload, gpus(r.MilliGPU), gpus(r.Rate),
			rfc3339(r.Start, location), rfc3339(r.Through, location), decimal(r.MilliGPUSeconds(), milliGPUSecondsPerHour, 3), one.costs(), rowState(&r))
	}
	var out strings.Builder
	if sum.Segments == 0 {
		out.WriteString("No rows.\n")
	} else {
		t.dropEmpty("WORKLOAD")
		t.dropEmpty("COST")
		for _, line := range t.lines(s, "") {
			out.WriteString(line + "\n")
		}
		if sum.Segments > maxRows {
			fmt.Fprintf(&out, "and %d more rows: see -o csv or -o json\n", sum.Segments-maxRows)
		}
		fmt.Fprintf(&out, "\n%s of %s: %s GPU-hours held, %s charged", count(int(sum.Segments), "row"), count(int(sum.Pods), "pod"),
			gpuHours(sum.MilliGPUSeconds), gpuHours(sum.ChargedMilliGPUSeconds))
		if cost := sum.costs(); cost != "" {
			out.WriteString(", " + cost)
		}
		out.WriteString("\n")
	}
	_, err := io.WriteString(w, s.finish(out.String()))
	return err
}

func rowState(s *ledger.Segment) string {
	var parts []string
	switch {
	case s.End == 0:
		parts = append(parts, "open")
	case s.Estimated:
		parts = append(parts, "ended (estimated)")
	default:
		parts = append(parts, "ended")
	}
	if s.Startup {
		parts = append(parts, "start-up")
	}
	if !s.Charged {
		parts = append(parts, "not charged")
	}
	return strings.Join(parts, ", ")
}

// RowsJSON prints a JSON object in each line, as the controller's API has it.
func RowsJSON(w io.Writer, rows iter.Seq2[ledger.Segment, error]) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for r, err := range rows {
		if err != nil {
			return err
		}
		if err := e.Encode(ledgerhttp.FromLedger(r)); err != nil {
			return err
		}
	}
	return nil
}

// RowsCSV prints the rows with the columns of the API, the labels as JSON, and what each adds up to.
func RowsCSV(w io.Writer, rows iter.Seq2[ledger.Segment, error]) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{
		"podUID", "number", "namespace", "pod", "node", "queue", "user", "workload", "labels", "class", "product", "profile", "milliGPU", "rateMilliGPU",
		"priceMicros", "currency", "startup", "charged", "start", "through", "end", "estimated", "closed", "milliGPUSeconds",
	})
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	for r, err := range rows {
		if err != nil {
			out.Flush()
			return err
		}
		labels := r.Labels
		if labels == nil {
			labels = map[string]string{}
		}
		text, err := json.Marshal(labels)
		if err != nil {
			return err
		}
		if err := out.Write([]string{
			cell(r.PodUID), number(int64(r.Number)), cell(r.Namespace), cell(r.Pod), cell(r.Node), cell(r.Queue), cell(r.User), cell(r.Workload), string(text),
			cell(r.Class), cell(r.Product), cell(r.Profile), number(r.MilliGPU), number(r.Rate), number(r.PriceMicros), r.Currency,
			strconv.FormatBool(r.Startup), strconv.FormatBool(r.Charged), number(r.Start), number(r.Through), number(r.End),
			strconv.FormatBool(r.Estimated), r.Closed, number(r.MilliGPUSeconds()),
		}); err != nil {
			return err
		}
	}
	out.Flush()
	return out.Error()
}
