package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/forecast"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/ledger/ledgerhttp"
	"weft.sh/weft/pkg/queues"
	"weft.sh/weft/pkg/snapshot"
	"weft.sh/weft/pkg/trace"
)

// DemandPlan is what will be wanted, and what to have for it: `weft plan demand -o json`. Made by newDemandPlan.
type DemandPlan struct {
	// APIVersion is cli.weft.sh/v1, Kind is DemandPlan.
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// From and To bound the history, in RFC 3339; a bucket of it is so long, and Missing of them have nothing of any queue.
	From           string `json:"from"`
	To             string `json:"to"`
	BucketSeconds  int64  `json:"bucketSeconds"`
	HistoryBuckets int    `json:"historyBuckets"`
	MissingBuckets int    `json:"missingBuckets"`
	// HorizonBuckets are forecast from To on, and the pattern repeats after SeasonBuckets.
	HorizonBuckets int `json:"horizonBuckets"`
	SeasonBuckets  int `json:"seasonBuckets"`
	// BasePercent and NodeGPUs are those of --base and --gpus-per-node.
	BasePercent int   `json:"basePercent"`
	NodeGPUs    int64 `json:"nodeGPUs"`
	// Classes are what is wanted of each class by all queues that were chosen, and what to have for it.
	Classes []ClassDemand `json:"classes"`
	// Queues are what each wants of each class, by name.
	Queues []QueueDemand `json:"queues"`
	// Problems are what could not be taken into account, in words.
	Problems []string `json:"problems"`
}

// QueueDemand is what a queue wants of a class.
type QueueDemand struct {
	// Queue and Class are names; empty for none.
	Queue string `json:"queue"`
	Class string `json:"class"`
	// MaySpot says that what is above the base may be spot nodes.
	MaySpot bool   `json:"maySpot"`
	Demand  Demand `json:"demand"`
}

// Demand is a forecast.
type Demand struct {
	// Model is the one that counts, and Skills are those of all. BeatsLast says that it missed less than the last value did.
	Model     string       `json:"model"`
	BeatsLast bool         `json:"beatsLast"`
	Skills    []ModelSkill `json:"skills"`
	// Origins is how many forecasts the skills come from, Note what to hold of it in words.
	Origins int    `json:"origins"`
	Note    string `json:"note"`
	// Points are the buckets.
	Points []DemandPoint `json:"points"`
	// BaseMilliGPU is the part of P50 that --base says, and PeakMilliGPU the most of P90, both at the same time.
	BaseMilliGPU int64 `json:"baseMilliGPU"`
	PeakMilliGPU int64 `json:"peakMilliGPU"`
}

// ModelSkill is how well a model does.
type ModelSkill struct {
	// Model is last, seasonal or holt-winters.
	Model string `json:"model"`
	// WAPEPerMille is what it missed in thousandths of what came, -1 where that is not known.
	WAPEPerMille int64 `json:"wapePerMille"`
	// LeftOut is why it was not tried; empty where it was.
	LeftOut string `json:"leftOut"`
}

// DemandPoint is what is expected of a bucket.
type DemandPoint struct {
	// From is its beginning in RFC 3339.
	From               string `json:"from"`
	P50MilliGPUSeconds int64  `json:"p50MilliGPUSeconds"`
	P90MilliGPUSeconds int64  `json:"p90MilliGPUSeconds"`
}

// ClassDemand is what is wanted of a class, and what to have for it.
type ClassDemand struct {
	// Class is its name; empty for none.
	Class  string `json:"class"`
	Demand Demand `json:"demand"`
	// Spot says that the class is of spot nodes, SpotClass is the one whose nodes the burst of another class may be.
	Spot      bool   `json:"spot"`
	SpotClass string `json:"spotClass"`
	// HaveGPUs are those of the snapshot, -1 where there is none.
	HaveGPUs int64 `json:"haveGPUs"`
	// BaseNodeCount are to be owned or reserved, MissingNodeCount of them are not there; the others are for what is above the base.
	BaseNodeCount     int64 `json:"baseNodeCount"`
	MissingNodeCount  int64 `json:"missingNodeCount"`
	SpotNodeCount     int64 `json:"spotNodeCount"`
	OnDemandNodeCount int64 `json:"onDemandNodeCount"`
	// Prices are for an hour of one GPU, costs over the horizon, all in millionths of Currency; it is empty where there are no prices.
	Currency           string `json:"currency"`
	PriceMicros        int64  `json:"priceMicros"`
	SpotPriceMicros    int64  `json:"spotPriceMicros"`
	BaseCostMicros     int64  `json:"baseCostMicros"`
	SpotCostMicros     int64  `json:"spotCostMicros"`
	OnDemandCostMicros int64  `json:"onDemandCostMicros"`
}

// owner is whose a series is.
type owner struct{ queue, class string }

// history is what was wanted, bucket by bucket.
type history struct {
	// from and to bound it, in Unix seconds; seconds is how long a bucket is.
	from, to, seconds int64
	series            map[owner][]int64
	missing           int
}

// buckets is how many there are.
func (h *history) buckets() int { return int((h.to - h.from) / h.seconds) }

// add adds an amount to the bucket that the moment lies in.
func (h *history) add(o owner, at, milliGPUSeconds int64) {
	if at < h.from || at >= h.to {
		return
	}
	if h.series[o] == nil {
		h.series[o] = make([]int64, h.buckets())
	}
	h.series[o][(at-h.from)/h.seconds] += milliGPUSeconds
}

// markMissing marks the buckets in which there is nothing of anybody: who keeps the books then did not.
func (h *history) markMissing() {
	for b := range h.buckets() {
		some := false
		for _, values := range h.series {
			some = some || values[b] != 0
		}
		if some {
			continue
		}
		h.missing++
		for _, values := range h.series {
			values[b] = forecast.Missing
		}
	}
}

// ledgerHistory is what the ledger says that was held, in whole buckets of UTC from at most back seconds before the end of the books.
func ledgerHistory(ctx context.Context, r ledgerhttp.Reader, bucket string, seconds, back int64) (*history, error) {
	at, _, err := pickTo(ctx, r, span{})
	if err != nil {
		return nil, err
	}
	h := &history{to: at.to / seconds * seconds, seconds: seconds, series: map[owner][]int64{}}
	h.from = max(h.to-back/seconds*seconds, 0)
	if h.to <= h.from {
		return nil, fmt.Errorf("the books end at %s: that is no %s yet", rfc3339(at.to, time.UTC), bucket)
	}
	lines, err := r.Totals(ctx, ledger.Query{From: h.from, To: h.to, IncludeRollups: true}, []ledger.Dimension{"queue", "class"}, bucket, "UTC")
	if err != nil {
		return nil, err
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("the ledger has nothing from %s to %s: want a longer --history", rfc3339(h.from, time.UTC), rfc3339(h.to, time.UTC))
	}
	// Of the first bucket that there ever was a part may be missing.
	if first := lines[0].Bucket; first > h.from {
		if h.from = first + seconds; h.to <= h.from {
			return nil, fmt.Errorf("the ledger begins at %s: that is no whole %s yet", rfc3339(first, time.UTC), bucket)
		}
	}
	for _, l := range lines {
		h.add(owner{l.Key[0], l.Key[1]}, l.Bucket, l.MilliGPUSeconds)
	}
	h.markMissing()
	return h, nil
}

// mostTraceSeconds bounds how long a trace may be.
const mostTraceSeconds = 10 * 366 * 86400

// traceHistory is what the jobs of a list wanted, as if each had run from when it was submitted, of a class. The list ends with the last
// job that was submitted: a bucket counts if that is in its last twentieth or after it.
func traceHistory(file, class string, seconds, back int64) (*history, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	type amount struct {
		owner
		from, to, milliGPU int64
	}
	var jobs []amount
	first, last := int64(0), int64(0)
	for j, err := range trace.Philly(f, file) {
		if err != nil {
			return nil, err
		}
		from := j.Submitted.Unix()
		if len(jobs) == 0 || from < first {
			first = from
		}
		last = max(last, from)
		jobs = append(jobs, amount{owner{j.Cluster, class}, from, from + int64(j.Duration/time.Second), int64(j.GPUs) * gpu.WholeMilliGPU})
	}
	switch {
	case len(jobs) == 0:
		return nil, fmt.Errorf("%s has no jobs", file)
	case last-first > mostTraceSeconds:
		return nil, fmt.Errorf("%s goes from %s to %s: want at most ten years", file, rfc3339(first, time.UTC), rfc3339(last, time.UTC))
	}
	h := &history{to: (last + seconds/20) / seconds * seconds, seconds: seconds, series: map[owner][]int64{}}
	// What began before the first job is not known, so the bucket that it lies in is not whole.
	h.from = max((first+seconds-1)/seconds*seconds, h.to-back/seconds*seconds)
	if h.to <= h.from {
		return nil, fmt.Errorf("%s goes from %s to %s: that is no whole bucket", file, rfc3339(first, time.UTC), rfc3339(last, time.UTC))
	}
	for _, j := range jobs {
		for at := max(j.from, h.from); at < min(j.to, h.to); {
			next := min((at/seconds+1)*seconds, j.to)
			h.add(j.owner, at, (next-at)*j.milliGPU)
			at = next
		}
	}
	if len(h.series) == 0 {
		return nil, fmt.Errorf("%s wants no GPU from %s to %s", file, rfc3339(h.from, time.UTC), rfc3339(h.to, time.UTC))
	}
	return h, nil
}

// prices are what classes cost, and how many GPUs of each there are.
type prices struct {
	classes []*v1alpha1.GPUClass
	// have are the GPUs by class; nil where that is not known.
	have map[string]int64
	// price and spot are for GPUs whose class says none, in currency.
	price, spot int64
	currency    string
}

// of is the price of a class.
func (p *prices) of(class string) (micros int64, currency string) {
	for _, c := range p.classes {
		if c.Name == class && c.Spec.Price != nil {
			return c.Spec.Price.PerGPUHour.ScaledValue(resource.Micro), c.Spec.Price.Currency
		}
	}
	return p.price, p.currency
}

// isSpot reports whether the class selects nodes that are spot.
func (p *prices) isSpot(class string) bool {
	i := slices.IndexFunc(p.classes, func(c *v1alpha1.GPUClass) bool { return c.Name == class })
	if i < 0 || p.classes[i].Spec.NodeSelector == nil {
		return false
	}
	s := p.classes[i].Spec.NodeSelector
	if snapshot.IsSpot(s.MatchLabels) {
		return true
	}
	for _, e := range s.MatchExpressions {
		for _, v := range e.Values {
			if e.Operator == "In" && snapshot.IsSpot(map[string]string{e.Key: v}) {
				return true
			}
		}
	}
	return false
}

// spotOf is the class of spot nodes with the GPUs of the class and in its currency, the cheapest one; empty for none.
func (p *prices) spotOf(class string) string {
	i := slices.IndexFunc(p.classes, func(c *v1alpha1.GPUClass) bool { return c.Name == class })
	if i < 0 {
		return ""
	}
	_, currency := p.of(class)
	best, least := "", int64(0)
	for _, c := range p.classes {
		micros, in := p.of(c.Name)
		shares := len(c.Spec.Products) == 0 || len(p.classes[i].Spec.Products) == 0 ||
			slices.ContainsFunc(c.Spec.Products, func(product string) bool { return slices.Contains(p.classes[i].Spec.Products, product) })
		if p.isSpot(c.Name) && shares && in == currency && (best == "" || micros < least || micros == least && c.Name < best) {
			best, least = c.Name, micros
		}
	}
	return best
}

// priceAll reads prices and GPUs from a snapshot.
func priceAll(o *snapshot.Objects) prices {
	p := prices{classes: o.Classes, have: map[string]int64{}}
	set := queues.NewSet(nil, o.Classes, nil)
	state := o.State()
	for _, n := range o.Nodes {
		if c := state.Cluster.Node(n.Name); c != nil {
			for i := range c.GPUs {
				p.have[set.ClassOn(n.Labels, c.GPUs[i].Product, "").Name]++
			}
		}
	}
	return p
}

// demandRule is how capacity is to be had.
type demandRule struct {
	horizon, base int
	nodeGPUs      int64
	// queues are chosen, all where it is empty; spot may run on spot nodes besides those that did.
	queues, spot []string
}

// newDemandPlan forecasts the history and says what to have for it.
func newDemandPlan(h *history, rule demandRule, p prices) (DemandPlan, error) {
	d := DemandPlan{
		APIVersion: APIVersion, Kind: "DemandPlan", From: rfc3339(h.from, time.UTC), To: rfc3339(h.to, time.UTC), BucketSeconds: h.seconds,
		HistoryBuckets: h.buckets(), MissingBuckets: h.missing, HorizonBuckets: rule.horizon, SeasonBuckets: season(h, rule.horizon),
		BasePercent: rule.base, NodeGPUs: rule.nodeGPUs, Classes: []ClassDemand{}, Queues: []QueueDemand{}, Problems: []string{},
	}
	for _, name := range append(slices.Clone(rule.queues), rule.spot...) {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(h.series)), func(o owner) bool { return o.queue == name }) {
			return DemandPlan{}, fmt.Errorf("queue %q wanted nothing from %s to %s: want one of %s", name, d.From, d.To, knownQueues(h))
		}
	}
	onSpot := map[string]bool{}
	for o := range h.series {
		onSpot[o.queue] = onSpot[o.queue] || p.isSpot(o.class) || slices.Contains(rule.spot, o.queue)
	}
	owners := slices.SortedFunc(maps.Keys(h.series), func(a, b owner) int { return cmp.Or(cmp.Compare(a.class, b.class), cmp.Compare(a.queue, b.queue)) })
	terms := forecast.Terms{BucketSeconds: h.seconds, GPUsPerNode: rule.nodeGPUs, BasePercent: rule.base}
	for len(owners) > 0 {
		class := owners[0].class
		n := slices.IndexFunc(owners, func(o owner) bool { return o.class != class })
		if n < 0 {
			n = len(owners)
		}
		whole := make([]int64, h.buckets())
		var parts []forecast.Part
		for _, o := range owners[:n] {
			if len(rule.queues) > 0 && !slices.Contains(rule.queues, o.queue) {
				continue
			}
			values := h.series[o]
			for i, v := range values {
				if whole[i] += v; v == forecast.Missing {
					whole[i] = forecast.Missing // of one it is missing where it is of all
				}
			}
			f, err := forecast.New(values, forecast.Options{Horizon: rule.horizon, Season: d.SeasonBuckets})
			if err != nil {
				return DemandPlan{}, fmt.Errorf("queue %s: %w", orNone(o.queue), err)
			}
			parts = append(parts, forecast.Part{Points: f.Points, MaySpot: onSpot[o.queue]})
			d.Queues = append(d.Queues, QueueDemand{Queue: o.queue, Class: o.class, MaySpot: onSpot[o.queue], Demand: newDemand(f, h, terms)})
		}
		owners = owners[n:]
		if len(parts) == 0 {
			continue
		}
		f, err := forecast.New(whole, forecast.Options{Horizon: rule.horizon, Season: d.SeasonBuckets})
		if err != nil {
			return DemandPlan{}, fmt.Errorf("class %s: %w", orNone(class), err)
		}
		c := newClassDemand(class, f, h, terms, parts, p)
		if len(rule.spot) > 0 && !c.Spot && c.SpotClass == "" && p.spot == 0 {
			d.Problems = append(d.Problems, fmt.Sprintf(
				"--spot-queue for class %s: no GPUClass of spot nodes has its GPUs, and --spot-price is not given", orNone(class)))
		}
		d.Classes = append(d.Classes, c)
	}
	return d, nil
}

// newClassDemand is what to have of a class.
func newClassDemand(class string, f forecast.Forecast, h *history, terms forecast.Terms, parts []forecast.Part, p prices) ClassDemand {
	c := ClassDemand{Class: class, Demand: newDemand(f, h, terms), Spot: p.isSpot(class), HaveGPUs: -1}
	c.PriceMicros, c.Currency = p.of(class)
	c.SpotPriceMicros = p.spot
	switch {
	case c.Spot:
		c.SpotPriceMicros = c.PriceMicros
	case p.spotOf(class) != "":
		c.SpotClass = p.spotOf(class)
		c.SpotPriceMicros, _ = p.of(c.SpotClass)
	case p.spot == 0: // there is no spot to be had
		for i := range parts {
			parts[i].MaySpot = false
		}
	}
	terms.PriceMicros, terms.SpotPriceMicros, terms.SpotOnly = c.PriceMicros, c.SpotPriceMicros, c.Spot
	n := terms.Plan(f.Points, parts)
	c.BaseNodeCount, c.SpotNodeCount, c.OnDemandNodeCount = n.BaseNodes, n.SpotNodes, n.OnDemandNodes
	c.BaseCostMicros, c.SpotCostMicros, c.OnDemandCostMicros = n.BaseCostMicros, n.SpotCostMicros, n.OnDemandCostMicros
	if p.have != nil {
		c.HaveGPUs = p.have[class]
		c.MissingNodeCount = max(0, c.BaseNodeCount-c.HaveGPUs/terms.GPUsPerNode)
	} else {
		c.MissingNodeCount = c.BaseNodeCount
	}
	return c
}

func newDemand(f forecast.Forecast, h *history, terms forecast.Terms) Demand {
	d := Demand{Model: f.Model, BeatsLast: f.BeatsLast, Skills: []ModelSkill{}, Origins: f.Origins, Note: f.Note, Points: []DemandPoint{}}
	for _, s := range f.Skills {
		d.Skills = append(d.Skills, ModelSkill{Model: s.Model, WAPEPerMille: s.WAPEPerMille, LeftOut: s.Left})
	}
	for i, p := range f.Points {
		d.Points = append(d.Points, DemandPoint{rfc3339(h.to+int64(i)*h.seconds, time.UTC), p.P50, p.P90})
	}
	d.BaseMilliGPU, d.PeakMilliGPU = terms.Span(f.Points)
	return d
}

// season is after how many buckets the pattern repeats: a week, or for hours a day where there are too few weeks to judge anything by.
func season(h *history, horizon int) int {
	const week = 7 * 86400
	if n := int(week / h.seconds); n < 24 || h.buckets() >= 2*n+1+horizon+2 {
		return n
	}
	return int(86400 / h.seconds)
}

// knownQueues are the names of those in the history, as many as a message takes.
func knownQueues(h *history) string {
	var names []string
	for o := range h.series {
		names = append(names, orNone(o.queue))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > 20 {
		names = append(names[:20], "…")
	}
	return strings.Join(names, ", ")
}
