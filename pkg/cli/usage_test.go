package cli

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/ledger/ledgerhttp"
)

const november = 1_793_491_200 // 2026-11-01 UTC

// randomLedger is a ledger of pods in queues, with names that a shell would take amiss, and its path.
func randomLedger(t *testing.T, seed uint64) string {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	path := filepath.Join(t.TempDir(), "ledger.db")
	db, err := ledger.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	epoch, err := db.Lead(t.Context(), "test", 0)
	if err != nil {
		t.Fatal(err)
	}
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	const asOf = november + 20*86400
	var rows []ledger.Segment
	for pod := range 150 {
		at := int64(november - 86400 + r.IntN(19*86400))
		s := ledger.Segment{
			PodUID: fmt.Sprintf("uid-%d", pod), Namespace: pick("ml", "web"), Pod: fmt.Sprintf("p-%d", pod), Node: "n",
			User: pick("", "eve", "it's me", "a b", "$(reboot)", "=cmd"), Workload: pick("Job/a", "Deployment/b"), Class: pick("", "h100", "spot"),
			Product: pick("H100", "T4"), Profile: pick("", "", "1g.10gb"),
		}
		if r.IntN(2) == 0 {
			s.Labels = map[string]string{"team": pick("nlp", "vision")}
		}
		for n := range 1 + r.IntN(3) {
			s.Number, s.Queue = int32(n), pick("", "org", "research", "serving", "gone")
			s.MilliGPU = int64(1 + r.IntN(8000))
			s.Rate, s.Startup, s.Charged = s.MilliGPU*int64(1+r.IntN(3)), n == 0, r.IntN(3) > 0
			s.PriceMicros, s.Currency = 0, ""
			if r.IntN(3) > 0 {
				s.PriceMicros, s.Currency = int64(1+r.IntN(5_000_000)), pick("EUR", "USD")
			}
			s.Start = at
			at += int64(1 + r.IntN(40000))
			s.Through, s.End, s.Closed, s.Estimated = at, at, "observed", r.IntN(5) == 0
			rows = append(rows, s)
		}
	}
	if err := db.Commit(t.Context(), epoch, asOf, rows); err != nil {
		t.Fatal(err)
	}
	return path
}

// rowsOf runs the command that explains a line, and adds its rows up by arithmetic of its own.
func rowsOf(t *testing.T, command, path string) UsageLine {
	t.Helper()
	args := shellWords(t, command)
	out, err := weft(t, append(args[1:], "--ledger", path, "-o", "json")...)
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	var sum UsageLine
	cost, pods := new(big.Rat), map[string]bool{}
	for lines := bufio.NewScanner(strings.NewReader(out)); lines.Scan(); {
		var s ledgerhttp.Segment
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			t.Fatal(err)
		}
		held := s.MilliGPU * (s.Through - s.Start)
		sum.Segments++
		pods[s.PodUID] = true
		sum.MilliGPUSeconds += held
		if s.Startup {
			sum.StartupMilliGPUSeconds += held
		}
		if s.Estimated {
			sum.EstimatedMilliGPUSeconds += held
		}
		if s.Charged {
			sum.ChargedMilliGPUSeconds += s.RateMilliGPU * (s.Through - s.Start)
			cost.Add(cost, big.NewRat(s.PriceMicros, 3_600_000).Mul(big.NewRat(s.PriceMicros, 3_600_000), big.NewRat(held, 1)))
		}
	}
	sum.Pods = int64(len(pods))
	if _, err := fmt.Sscan(cost.FloatString(0), &sum.CostMicros); err != nil {
		t.Fatal(err)
	}
	return sum
}

// amounts are the figures of a line alone.
func amounts(l UsageLine) UsageLine {
	l.From, l.To, l.Key, l.Depth, l.Currency, l.Rows = "", "", nil, 0, "", ""
	return l
}

// TestEveryFigureIsTheSumOfRows: of every line of a report, the command that --explain has prints rows that add up to it exactly.
func TestEveryFigureIsTheSumOfRows(t *testing.T) {
	path := randomLedger(t, 1)
	for _, args := range [][]string{
		{"--by", "queue"},
		{"--by", "queue,user"},
		{"--by", "namespace,class,product,profile,currency"},
		{"--by", "label:team,workload", "-l", "team"},
		{"--by", "user", "--queue", "research", "--queue=", "-n", "ml"},
		{"--by", "queue", "--bucket", "day", "--time-zone", "Asia/Kolkata"},
		{"--by", "product", "--bucket", "month", "--time-zone", "Europe/Berlin"},
		{"--by", "class", "--bucket", "hour", "--from", "2026-11-03T10:30:00Z", "--to", "2026-11-03T19:30:00Z"},
		{"--by", "label:team", "-l", "team=nlp", "--from", "2026-11-05"},
	} {
		if !slices.Contains(args, "--from") {
			args = append(args, "--from", "1970")
		}
		out, err := weft(t, append([]string{"report", "--ledger", path, "--explain", "-o", "json"}, args...)...)
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		var u Usage
		if err := json.Unmarshal([]byte(out), &u); err != nil {
			t.Fatal(err)
		}
		if len(u.Lines) == 0 {
			t.Errorf("%v: no lines", args)
		}
		lines := u.Lines
		if len(lines) > 40 { // each is a command
			rand.New(rand.NewPCG(2, 3)).Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
			lines = lines[:40]
		}
		for _, l := range append(lines, u.Totals...) {
			if diff := cmp.Diff(amounts(l), rowsOf(t, l.Rows, path)); diff != "" {
				t.Errorf("%v: %s (-line +rows)\n%s", args, l.Rows, diff)
			}
		}
	}
}

// TestLinesAddUpToTheTotal: amounts to the unit, costs but for the rounding of each line.
func TestLinesAddUpToTheTotal(t *testing.T) {
	path := randomLedger(t, 2)
	out, err := weft(t, "report", "--ledger", path, "--from", "1970", "--by", "queue,user", "--bucket", "day", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var u Usage
	if err := json.Unmarshal([]byte(out), &u); err != nil {
		t.Fatal(err)
	}
	for _, total := range u.Totals {
		var held, charged, cost, lines int64
		for _, l := range u.Lines {
			if l.Currency == total.Currency {
				held, charged, cost, lines = held+l.MilliGPUSeconds, charged+l.ChargedMilliGPUSeconds, cost+l.CostMicros, lines+1
			}
		}
		if held != total.MilliGPUSeconds || charged != total.ChargedMilliGPUSeconds || 2*max(cost-total.CostMicros, total.CostMicros-cost) > lines+1 {
			t.Errorf("%q: lines %d, %d, %d, total %+v", total.Currency, held, charged, cost, total)
		}
	}
}

// TestTreesAddUp: the line of a queue is what those below it used, and its rows are theirs.
func TestTreesAddUp(t *testing.T) {
	path := randomLedger(t, 3)
	db, err := ledger.OpenReadOnly(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	parents := map[string]string{"org": "", "research": "org", "serving": "org", "unused": "org"}
	u, err := readUsage(t.Context(), db, ledger.Query{}, UsageOptions{
		Location: time.UTC, By: []string{"queue", "currency"}, Parents: parents, Explain: []string{},
	})
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, l := range u.Lines {
		order = append(order, fmt.Sprintf("%d %s %s", l.Depth, l.Key[0], l.Key[1]))
		got := rowsOf(t, l.Rows, path)
		want := amounts(l)
		// Each line of the ledger's is rounded, and a pod that changed its queue counts in each.
		if d := got.CostMicros - want.CostMicros; d < -2 || d > 2 || got.Pods > want.Pods {
			t.Errorf("%v: cost %d and %d pods, of rows %d and %d", l.Key, want.CostMicros, want.Pods, got.CostMicros, got.Pods)
		}
		got.CostMicros, want.CostMicros, got.Pods, want.Pods = 0, 0, 0, 0
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-line +rows)\n%s", l.Key, diff)
		}
	}
	var want []string
	for _, queue := range []string{"0 ", "0 gone", "0 org", "1 research", "1 serving"} {
		for _, currency := range []string{"", "EUR", "USD"} {
			want = append(want, queue+" "+currency)
		}
	}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	var out bytes.Buffer
	if err := RenderUsage(&out, u, false, false); err != nil || !strings.Contains(out.String(), "\n  research  EUR") {
		t.Errorf("%v\n%s", err, &out)
	}
}

// TestCirclesEnd: queues that contradict each other must not keep a report from ending.
func TestCirclesEnd(t *testing.T) {
	o := UsageOptions{Parents: map[string]string{"a": "b", "b": "a", "c": "c", "d": "none"}}
	for queue, want := range map[string][]string{"a": {"a", "b"}, "b": {"b", "a"}, "c": {"c"}, "d": {"d", "none"}, "": {""}} {
		if diff := cmp.Diff(want, o.path(queue)); diff != "" {
			t.Errorf("%s: -want +got\n%s", queue, diff)
		}
	}
}

func TestSumsThatAreTooLargeAreErrors(t *testing.T) {
	lines := []ledger.Total{
		{Key: []string{"a"}, MilliGPUSeconds: math.MaxInt64},
		{Key: []string{"b"}, MilliGPUSeconds: 1},
	}
	_, err := NewUsage(lines, nil, UsageOptions{Location: time.UTC, By: []string{"queue"}, Parents: map[string]string{"a": "top", "b": "top"}})
	if !errors.Is(err, errAmount) {
		t.Errorf("%v", err)
	}
	if _, err := NewUsage(nil, nil, UsageOptions{Location: time.UTC, By: []string{"user"}, Parents: map[string]string{}}); err == nil {
		t.Error("a tree without queues")
	}
}

// TestLargeAmountsAreExact: a million GPUs for ten years.
func TestLargeAmountsAreExact(t *testing.T) {
	const n = 1_000_000 * 1000 * 10 * 366 * 86400
	for _, tc := range []struct{ got, want string }{
		{gpuHours(n), "87840000000.00"},
		{gpuHours(n + 3_599_999), "87840000001.00"},
		{gpuHours(1_800_000), "0.50"},
		{gpuHours(-73_800_000), "-20.50"},
		{decimal(math.MaxInt64, 1_000_000, 6), "9223372036854.775807"},
		{money(1_995_000, "EUR"), "2.00 EUR"},
		{money(5, ""), ""},
	} {
		if tc.got != tc.want {
			t.Errorf("%s, want %s", tc.got, tc.want)
		}
	}
}

// TestNoFormulas: a spreadsheet computes what begins as a formula, and names come from those who made the pods.
func TestNoFormulas(t *testing.T) {
	path := randomLedger(t, 4)
	for _, args := range [][]string{
		{"report", "--by", "user", "-o", "csv"},
		{"report", "--by", "user,queue", "-o", "focus"},
		{"report", "segments", "-o", "csv"},
	} {
		out, err := weft(t, append(args, "--ledger", path, "--from", "1970")...)
		if err != nil {
			t.Fatal(err)
		}
		records, err := csv.NewReader(strings.NewReader(out)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		escaped := 0
		for _, record := range records {
			for _, value := range record {
				if value == "'=cmd" {
					escaped++
				}
				if strings.ContainsAny(value[:min(len(value), 1)], "=+-@\t\r") {
					t.Errorf("%v: %q", args, value)
				}
			}
		}
		if escaped == 0 {
			t.Errorf("%v: nobody was named so", args)
		}
	}
}

// TestFOCUS: the columns that FOCUS 1.2 says are mandatory are there, each charge lies in one billing period, and costs add up.
func TestFOCUS(t *testing.T) {
	path := randomLedger(t, 5)
	out, err := weft(t, "report", "--ledger", path, "--from", "1970", "--time-zone", "Europe/Berlin", "-o", "focus")
	if err != nil {
		t.Fatal(err)
	}
	records, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	column := map[string]int{}
	for i, name := range records[0] {
		column[name] = i
	}
	for _, name := range []string{
		"BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass",
		"ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity",
		"PricingUnit", "ProviderName", "PublisherName", "ServiceCategory", "ServiceName", "ConsumedQuantity", "ConsumedUnit", "SubAccountId", "x_Queue",
		"x_Class", "x_MilliGPUSeconds",
	} {
		if _, ok := column[name]; !ok {
			t.Errorf("no column %s", name)
		}
	}
	var held int64
	periods := map[string]bool{}
	for _, r := range records[1:] {
		of := func(name string) string { return r[column[name]] }
		// All in UTC and of one form, so that they are in the order of their texts.
		if of("BillingPeriodStart") > of("ChargePeriodStart") || of("ChargePeriodStart") >= of("ChargePeriodEnd") || of("ChargePeriodEnd") > of("BillingPeriodEnd") {
			t.Errorf("a charge from %s to %s in the billing period from %s to %s", of("ChargePeriodStart"), of("ChargePeriodEnd"), of("BillingPeriodStart"), of("BillingPeriodEnd"))
		}
		if len(of("BillingCurrency")) != 3 {
			t.Errorf("currency %q", of("BillingCurrency"))
		}
		var n int64
		if _, err := fmt.Sscan(of("x_MilliGPUSeconds"), &n); err != nil {
			t.Fatal(err)
		}
		held += n
		periods[of("BillingPeriodStart")] = true
	}
	db, err := ledger.OpenReadOnly(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	all, err := db.Totals(t.Context(), ledger.Query{}, nil, "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, total := range all {
		held -= total.MilliGPUSeconds
	}
	if held != 0 || len(periods) != 2 {
		t.Errorf("%d milli-GPU-seconds more than in the ledger, billing periods %v", held, periods)
	}
}

// TestTablesOfManyRowsEnd: the rest is counted, and in the sum.
func TestTablesOfManyRowsEnd(t *testing.T) {
	rows := func(yield func(ledger.Segment, error) bool) {
		for i := range maxRows + 7 {
			if !yield(ledger.Segment{PodUID: "u", Number: int32(i), Namespace: "n", Pod: "p", MilliGPU: 1000, Start: 3600 * int64(i+1), Through: 3600 * int64(i+2)}, nil) {
				return
			}
		}
	}
	var out bytes.Buffer
	if err := RenderRows(&out, rows, time.UTC, false, false); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Count(text, "n/p") != maxRows || !strings.Contains(text, "and 7 more rows") || !strings.Contains(text, "10007 rows of 1 pod: 10007.00 GPU-hours held") {
		t.Errorf("%s", text[len(text)-200:])
	}
	broken := func(yield func(ledger.Segment, error) bool) { yield(ledger.Segment{}, errAmount) }
	for name, err := range map[string]error{
		"a table": RenderRows(&out, broken, time.UTC, false, false), "JSON": RowsJSON(&out, broken), "CSV": RowsCSV(&out, broken),
	} {
		if !errors.Is(err, errAmount) {
			t.Errorf("%s of a ledger that breaks off: %v", name, err)
		}
	}
}
