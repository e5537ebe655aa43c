package cli

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"weft.sh/weft/pkg/ledger"
)

// Usage is who used how many GPU-hours: `weft report -o json`. Made by [NewUsage].
type Usage struct {
	// APIVersion is cli.weft.sh/v1, Kind is Usage.
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// From and To bound the time, in RFC 3339; To is not after AsOf, the moment to which everything is on the books.
	From string `json:"from"`
	To   string `json:"to"`
	AsOf string `json:"asOf"`
	// TimeZone is that of From, To, and of buckets.
	TimeZone string `json:"timeZone"`
	// Bucket is hour, day or month; empty where time is not split.
	Bucket string `json:"bucket"`
	// By are the dimensions, in the order of each line's Key.
	By []string `json:"by"`
	// Tree says that a line of a queue has what those below it used too.
	Tree bool `json:"tree"`
	// Lines are in the order of time, key and currency; of a tree those below a queue follow it.
	Lines []UsageLine `json:"lines"`
	// Totals are all of it, a line for each currency.
	Totals []UsageLine `json:"totals"`
}

// UsageLine is a line of a report.
type UsageLine struct {
	// From and To are the part of the bucket that was asked for, or the whole time.
	From string `json:"from"`
	To   string `json:"to"`
	// Key has a value for each dimension; empty where there is none.
	Key []string `json:"key"`
	// Depth is how many queues are above the line's, in a tree.
	Depth int `json:"depth"`
	// MilliGPUSeconds were held. ChargedMilliGPUSeconds were charged to budgets, by the weights of the classes.
	MilliGPUSeconds        int64 `json:"milliGPUSeconds"`
	ChargedMilliGPUSeconds int64 `json:"chargedMilliGPUSeconds"`
	// StartupMilliGPUSeconds were held before containers ran, EstimatedMilliGPUSeconds are of rows whose end was not observed.
	StartupMilliGPUSeconds   int64 `json:"startupMilliGPUSeconds"`
	EstimatedMilliGPUSeconds int64 `json:"estimatedMilliGPUSeconds"`
	// CostMicros is in millionths of Currency, which is empty where no class has a price.
	CostMicros int64  `json:"costMicros"`
	Currency   string `json:"currency"`
	// Segments is how many rows of the ledger it comes from, and Pods how many pods these are of; roll-ups know no pods.
	Segments int64 `json:"segments"`
	Pods     int64 `json:"pods"`
	// Rows is the command that prints those rows; empty unless it was asked for.
	Rows string `json:"rows"`
}

// UsageOptions say what the lines of a ledger are of.
type UsageOptions struct {
	From, To, AsOf int64
	Location       *time.Location
	Bucket         string
	By             []string
	// Parents has each queue's parent, empty at the top; nil for a report that is no tree. A tree needs the dimension queue.
	Parents map[string]string
	// Explain are the flags of the command that prints rows, after those of time; nil for none.
	Explain []string
}

// errAmount is a sum that passes what can be counted.
var errAmount = errors.New("a sum does not fit 64 bits: report a shorter time")

// NewUsage is the report of what a ledger adds up: lines by the dimensions and buckets, and all without either.
func NewUsage(lines, all []ledger.Total, o UsageOptions) (Usage, error) {
	u := Usage{
		APIVersion: APIVersion, Kind: "Usage", From: rfc3339(o.From, o.Location), To: rfc3339(o.To, o.Location), AsOf: rfc3339(o.AsOf, o.Location),
		TimeZone: o.Location.String(), Bucket: o.Bucket, By: listed(o.By), Tree: o.Parents != nil, Lines: []UsageLine{}, Totals: []UsageLine{},
	}
	for _, t := range all {
		u.Totals = append(u.Totals, o.line(t, nil))
	}
	if o.Parents == nil {
		for _, t := range lines {
			u.Lines = append(u.Lines, o.line(t, nil))
		}
		return u, nil
	}
	at := slices.Index(o.By, "queue")
	if at < 0 {
		return Usage{}, errors.New("--tree needs the dimension queue: want --by queue, or more after it")
	}
	var err error
	u.Lines, err = o.tree(lines, at)
	return u, err
}

// line is a line of the ledger's; below are the queues that it is of where it is of a subtree.
func (o *UsageOptions) line(t ledger.Total, below []string) UsageLine {
	from, to := o.From, o.To
	if o.Bucket != "" && t.Bucket != 0 {
		from, to = max(from, t.Bucket), min(to, bucketEnd(o.Bucket, t.Bucket, o.Location))
	}
	l := UsageLine{
		From: rfc3339(from, o.Location), To: rfc3339(to, o.Location), Key: listed(t.Key), MilliGPUSeconds: t.MilliGPUSeconds,
		ChargedMilliGPUSeconds: t.ChargedMilliGPUSeconds, StartupMilliGPUSeconds: t.StartupMilliGPUSeconds,
		EstimatedMilliGPUSeconds: t.EstimatedMilliGPUSeconds, CostMicros: t.CostMicros, Currency: t.Currency, Segments: t.Segments, Pods: t.Pods,
	}
	if o.Explain == nil {
		return l
	}
	command := append([]string{"weft report segments", "--from " + l.From, "--to " + l.To}, o.Explain...)
	for i, value := range t.Key {
		if o.By[i] == "queue" && below != nil {
			for _, queue := range below {
				command = append(command, "--queue="+queue)
			}
			continue
		}
		command = append(command, "--where "+quoted(o.By[i]+"="+value))
	}
	if !slices.Contains(o.By, "currency") || len(t.Key) == 0 {
		command = append(command, "--where "+quoted("currency="+t.Currency))
	}
	l.Rows = strings.Join(command, " ")
	return l
}

// quoted is a word for a shell.
func quoted(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=@,", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// path is the queue and those above it. A queue that is not known stands at the top, and a circle ends where it closes.
func (o *UsageOptions) path(queue string) []string {
	path := []string{queue}
	for queue != "" {
		queue = o.Parents[queue]
		if queue == "" || slices.Contains(path, queue) {
			break
		}
		path = append(path, queue)
	}
	return path
}

// tree adds each line to those of the queues above; at is where the keys have the queue.
func (o *UsageOptions) tree(lines []ledger.Total, at int) ([]UsageLine, error) {
	type subtree struct {
		ledger.Total
		path  []string // from the top
		below map[string]bool
	}
	sums := map[string]*subtree{}
	for _, t := range lines {
		path := o.path(t.Key[at])
		for i, queue := range path {
			key := slices.Clone(t.Key)
			key[at] = queue
			id := fmt.Sprintf("%d %q %q", t.Bucket, key, t.Currency)
			s := sums[id]
			if s == nil {
				above := slices.Clone(path[i:])
				slices.Reverse(above)
				s = &subtree{ledger.Total{Key: key, Bucket: t.Bucket, Currency: t.Currency}, above, map[string]bool{}}
				sums[id] = s
			}
			s.below[t.Key[at]] = true
			if err := addTotal(&s.Total, t); err != nil {
				return nil, err
			}
		}
	}
	sorted := slices.SortedFunc(maps.Values(sums), func(a, b *subtree) int {
		rest := func(s *subtree) []string { return slices.Delete(slices.Clone(s.Key), at, at+1) }
		return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), slices.Compare(a.path, b.path), slices.Compare(rest(a), rest(b)), cmp.Compare(a.Currency, b.Currency))
	})
	out := []UsageLine{}
	for _, s := range sorted {
		l := o.line(s.Total, slices.Sorted(maps.Keys(s.below)))
		l.Depth = len(s.path) - 1
		out = append(out, l)
	}
	return out, nil
}

// addTotal adds the amounts of a line to another.
func addTotal(to *ledger.Total, t ledger.Total) error {
	for _, f := range []struct {
		to *int64
		n  int64
	}{
		{&to.MilliGPUSeconds, t.MilliGPUSeconds},
		{&to.ChargedMilliGPUSeconds, t.ChargedMilliGPUSeconds},
		{&to.StartupMilliGPUSeconds, t.StartupMilliGPUSeconds},
		{&to.EstimatedMilliGPUSeconds, t.EstimatedMilliGPUSeconds},
		{&to.CostMicros, t.CostMicros},
		{&to.Segments, t.Segments},
		{&to.Pods, t.Pods},
	} {
		if *f.to > math.MaxInt64-f.n {
			return errAmount
		}
		*f.to += f.n
	}
	return nil
}
