package cli

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"weft.sh/weft/pkg/quota"
)

// milliGPUSecondsPerHour is one GPU-hour.
const milliGPUSecondsPerHour = 3_600_000

// decimal is n/per with so many digits behind the point, rounded half away from zero.
func decimal(n, per int64, digits int) string {
	return new(big.Rat).SetFrac64(n, per).FloatString(digits)
}

// gpuHours is an amount for people.
func gpuHours(milliGPUSeconds int64) string {
	return decimal(milliGPUSeconds, milliGPUSecondsPerHour, 2)
}

// optionalHours is nothing for 0.
func optionalHours(milliGPUSeconds int64) string {
	if milliGPUSeconds == 0 {
		return ""
	}
	return gpuHours(milliGPUSeconds)
}

// money is a cost for people; nothing where there is no currency.
func money(micros int64, currency string) string {
	if currency == "" {
		return ""
	}
	return decimal(micros, 1_000_000, 2) + " " + currency
}

// orNone stands for what has no name.
func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// RenderUsage prints a report for people.
func RenderUsage(w io.Writer, u Usage, colour, ascii bool) error {
	s := style{colour: colour, ascii: ascii}
	var out strings.Builder
	fmt.Fprintf(&out, "GPU-hours from %s to %s", u.From, u.To)
	if u.AsOf != "" && u.AsOf != u.To {
		fmt.Fprintf(&out, " (on the books to %s)", u.AsOf)
	}
	out.WriteString("\n\n")
	if len(u.Lines) == 0 {
		out.WriteString("Nothing was used.\n")
		_, err := io.WriteString(w, s.finish(out.String()))
		return err
	}
	t := &table{}
	if u.Bucket != "" {
		t.header = append(t.header, strings.ToUpper(u.Bucket))
	}
	for _, d := range u.By {
		t.header = append(t.header, strings.ToUpper(strings.TrimPrefix(d, "label:")))
	}
	first := len(t.header)
	t.header = append(t.header, "GPU-HOURS", "CHARGED", "START-UP", "ESTIMATED", "COST", "PODS", "ROWS", "EXPLAINED BY")
	for i := range 7 {
		t.right = append(t.right, first+i)
	}
	add := func(key []string, l UsageLine) {
		t.row(append(key, gpuHours(l.MilliGPUSeconds), gpuHours(l.ChargedMilliGPUSeconds), optionalHours(l.StartupMilliGPUSeconds),
			optionalHours(l.EstimatedMilliGPUSeconds), money(l.CostMicros, l.Currency), strconv.FormatInt(l.Pods, 10),
			strconv.FormatInt(l.Segments, 10), l.Rows)...)
	}
	for _, l := range u.Lines {
		var key []string
		if u.Bucket != "" {
			key = append(key, bucketText(u.Bucket, l.From))
		}
		for i, value := range l.Key {
			value = orNone(value)
			if u.By[i] == "queue" {
				value = strings.Repeat("  ", l.Depth) + value
			}
			key = append(key, value)
		}
		add(key, l)
	}
	for _, l := range u.Totals {
		key := make([]string, first)
		if first > 0 {
			key[0] = "total"
		}
		if first > 0 || len(u.Lines) != len(u.Totals) {
			add(key, l)
		}
	}
	for _, column := range []string{"START-UP", "ESTIMATED", "COST", "EXPLAINED BY"} {
		t.dropEmpty(column)
	}
	for _, line := range t.lines(s, "") {
		out.WriteString(line + "\n")
	}
	_, err := io.WriteString(w, s.finish(out.String()))
	return err
}

// bucketText is the beginning of a bucket, as finely as it says something.
func bucketText(bucket, from string) string {
	switch bucket {
	case "month":
		return from[:len("2006-01")]
	case "day":
		return from[:len(time.DateOnly)]
	}
	return strings.Replace(from[:len("2006-01-02T15:04")], "T", " ", 1) + from[len("2006-01-02T15:04:05"):]
}

// cell is a value of a CSV file that no spreadsheet takes for a formula: names come from those who made the pods.
func cell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

// UsageCSV writes the lines with exact amounts, and the GPU-hours beside them. Totals are left out: they are the sum of the lines.
func UsageCSV(w io.Writer, u Usage) error {
	out := csv.NewWriter(w)
	header := append([]string{"from", "to"}, u.By...)
	header = append(header, "milliGPUSeconds", "chargedMilliGPUSeconds", "startupMilliGPUSeconds", "estimatedMilliGPUSeconds", "gpuHours",
		"chargedGPUHours", "costMicros", "cost", "currency", "segments", "pods")
	if u.Tree {
		header = append(header, "depth")
	}
	rows := slices.ContainsFunc(u.Lines, func(l UsageLine) bool { return l.Rows != "" })
	if rows {
		header = append(header, "rows")
	}
	// Errors of a line are kept, and come with Flush.
	_ = out.Write(header)
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	for _, l := range u.Lines {
		line := []string{l.From, l.To}
		for _, value := range l.Key {
			line = append(line, cell(value))
		}
		line = append(line, number(l.MilliGPUSeconds), number(l.ChargedMilliGPUSeconds), number(l.StartupMilliGPUSeconds),
			number(l.EstimatedMilliGPUSeconds), decimal(l.MilliGPUSeconds, milliGPUSecondsPerHour, 6),
			decimal(l.ChargedMilliGPUSeconds, milliGPUSecondsPerHour, 6), number(l.CostMicros), decimal(l.CostMicros, 1_000_000, 6), l.Currency,
			number(l.Segments), number(l.Pods))
		if u.Tree {
			line = append(line, strconv.Itoa(l.Depth))
		}
		if rows {
			line = append(line, l.Rows)
		}
		_ = out.Write(line)
	}
	out.Flush()
	return out.Error()
}

// focusColumns are the columns of FOCUS 1.2 (FinOps Open Cost and Usage Specification) that this has values for, all mandatory ones
// among them, and ours behind them.
var focusColumns = []string{
	"BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass",
	"ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart", "ConsumedQuantity", "ConsumedUnit", "ContractedCost", "EffectiveCost",
	"InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit", "ProviderName", "PublisherName", "ResourceName", "ResourceType", "ServiceCategory",
	"ServiceName", "SubAccountId", "SubAccountName", "SubAccountType", "Tags",
	"x_Queue", "x_User", "x_Class", "x_Product", "x_MIGProfile", "x_MilliGPUSeconds", "x_ChargedMilliGPUSeconds", "x_EstimatedMilliGPUSeconds", "x_Segments",
}

// noCurrency is ISO 4217's code for no currency: FOCUS wants one on every line, also where no GPUClass has a price.
const noCurrency = "XXX"

// UsageFOCUS writes the lines as FOCUS 1.2. Each has to lie in one month, which is its billing period: they are by hour, day or month.
// account is the billing account, such as the name of the cluster.
func UsageFOCUS(w io.Writer, u Usage, account string, location *time.Location) error {
	out := csv.NewWriter(w)
	_ = out.Write(focusColumns)
	for _, l := range u.Lines {
		from, err := time.Parse(time.RFC3339, l.From)
		if err != nil {
			return fmt.Errorf("line from %q: %w", l.From, err)
		}
		to, err := time.Parse(time.RFC3339, l.To)
		if err != nil {
			return fmt.Errorf("line to %q: %w", l.To, err)
		}
		monthStart, monthEnd := calendarOf(quota.PeriodMonth, from.Unix(), location)
		utc := func(at int64) string { return time.Unix(at, 0).UTC().Format(time.RFC3339) }
		of, tags := map[string]string{}, map[string]string{}
		for i, value := range l.Key {
			if label, ok := strings.CutPrefix(u.By[i], "label:"); ok {
				if value != "" {
					tags[label] = value
				}
				continue
			}
			of[u.By[i]] = value
		}
		tagged, err := json.Marshal(tags)
		if err != nil {
			return err
		}
		currency := l.Currency
		if currency == "" {
			currency = noCurrency
		}
		service, subAccountType := "GPU", ""
		if of["product"] != "" {
			service = "GPU " + of["product"]
		}
		if of["namespace"] != "" {
			subAccountType = "Namespace"
		}
		cost, hours := decimal(l.CostMicros, 1_000_000, 6), decimal(l.MilliGPUSeconds, milliGPUSecondsPerHour, 9)
		values := map[string]string{
			"BilledCost": cost, "BillingAccountId": account, "BillingAccountName": account, "BillingCurrency": currency,
			"BillingPeriodStart": utc(monthStart), "BillingPeriodEnd": utc(monthEnd), "ChargeCategory": "Usage",
			"ChargeDescription": "GPU-hours held by pods of queue " + orNone(of["queue"]), "ChargeFrequency": "Usage-Based",
			"ChargePeriodStart": utc(from.Unix()), "ChargePeriodEnd": utc(to.Unix()), "ConsumedQuantity": hours, "ConsumedUnit": "GPU-Hours",
			"ContractedCost": cost, "EffectiveCost": cost, "ListCost": cost, "InvoiceIssuerName": "Weft", "ProviderName": "Weft", "PublisherName": "Weft",
			"PricingQuantity": hours, "PricingUnit": "GPU-Hours", "ResourceName": of["workload"], "ResourceType": "GPU", "ServiceCategory": "Compute",
			"ServiceName": service, "SubAccountId": of["namespace"], "SubAccountName": of["namespace"], "SubAccountType": subAccountType,
			"Tags": string(tagged), "x_Queue": of["queue"], "x_User": of["user"], "x_Class": of["class"], "x_Product": of["product"],
			"x_MIGProfile": of["profile"], "x_MilliGPUSeconds": strconv.FormatInt(l.MilliGPUSeconds, 10),
			"x_ChargedMilliGPUSeconds":   strconv.FormatInt(l.ChargedMilliGPUSeconds, 10),
			"x_EstimatedMilliGPUSeconds": strconv.FormatInt(l.EstimatedMilliGPUSeconds, 10), "x_Segments": strconv.FormatInt(l.Segments, 10),
		}
		line := make([]string, len(focusColumns))
		for i, column := range focusColumns {
			line[i] = cell(values[column])
		}
		_ = out.Write(line)
	}
	out.Flush()
	return out.Error()
}
