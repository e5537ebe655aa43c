package ledgerhttp

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // images without files have no time zones

	"weft.sh/weft/pkg/ledger"
)

// Prefix is the path that everything is served below, and the version of the interface: fields may be added to it.
const Prefix = "/ledger/v1/"

// Reader is the half of ledger.Store that changes nothing.
type Reader interface {
	AsOf(ctx context.Context) (int64, error)
	Segments(ctx context.Context, q ledger.Query) iter.Seq2[ledger.Segment, error]
	Totals(ctx context.Context, q ledger.Query, by []ledger.Dimension, bucket, timeZone string) ([]ledger.Total, error)
	Charged(ctx context.Context, from, to int64) (map[string]int64, error)
}

var _ Reader = ledger.Store(nil)

// Segment is a row of the ledger in JSON: `weft report segments -o json` prints these lines too.
type Segment struct {
	// PodUID and Number name the row.
	PodUID string `json:"podUID"`
	Number int32  `json:"number"`
	// Namespace, Pod and Node are names.
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Node      string `json:"node"`
	// Queue is the queue that is charged; empty for none.
	Queue string `json:"queue"`
	// User created the pod, Workload controls it, such as Job/train; empty where it is not known.
	User     string `json:"user"`
	Workload string `json:"workload"`
	// Labels are those of the pod that the ledger keeps.
	Labels map[string]string `json:"labels"`
	// Class is the GPUClass, Product the model, Profile the MIG profile.
	Class   string `json:"class"`
	Product string `json:"product"`
	Profile string `json:"profile"`
	// MilliGPU is held, RateMilliGPU charged for each second.
	MilliGPU     int64 `json:"milliGPU"`
	RateMilliGPU int64 `json:"rateMilliGPU"`
	// PriceMicros is the price of an hour of one GPU in millionths of Currency.
	PriceMicros int64  `json:"priceMicros"`
	Currency    string `json:"currency"`
	// Startup says that the containers had yet to run, Charged that budgets are charged.
	Startup bool `json:"startup"`
	Charged bool `json:"charged"`
	// Start, Through and End are Unix seconds, cut to what was asked for; End is 0 while the segment is open.
	Start   int64 `json:"start"`
	Through int64 `json:"through"`
	End     int64 `json:"end"`
	// Estimated says that the end was not observed, Closed on what evidence it was closed.
	Estimated bool   `json:"estimated"`
	Closed    string `json:"closed"`
}

// FromLedger is the segment in JSON.
func FromLedger(s ledger.Segment) Segment {
	if s.Labels == nil {
		s.Labels = map[string]string{} // an object, never null
	}
	return Segment{
		PodUID: s.PodUID, Number: s.Number, Namespace: s.Namespace, Pod: s.Pod, Node: s.Node, Queue: s.Queue, User: s.User,
		Workload: s.Workload, Labels: s.Labels, Class: s.Class, Product: s.Product, Profile: s.Profile, MilliGPU: s.MilliGPU,
		RateMilliGPU: s.Rate, PriceMicros: s.PriceMicros, Currency: s.Currency, Startup: s.Startup, Charged: s.Charged, Start: s.Start,
		Through: s.Through, End: s.End, Estimated: s.Estimated, Closed: s.Closed,
	}
}

func (s Segment) toLedger() ledger.Segment {
	if len(s.Labels) == 0 {
		s.Labels = nil
	}
	return ledger.Segment{
		PodUID: s.PodUID, Number: s.Number, Namespace: s.Namespace, Pod: s.Pod, Node: s.Node, Queue: s.Queue, User: s.User,
		Workload: s.Workload, Labels: s.Labels, Class: s.Class, Product: s.Product, Profile: s.Profile, MilliGPU: s.MilliGPU,
		Rate: s.RateMilliGPU, PriceMicros: s.PriceMicros, Currency: s.Currency, Startup: s.Startup, Charged: s.Charged, Start: s.Start,
		Through: s.Through, End: s.End, Estimated: s.Estimated, Closed: s.Closed,
	}
}

// line is a line of segments: one of the two.
type line struct {
	Segment
	Error string `json:"error"`
}

// total is ledger.Total in JSON.
type total struct {
	Key                      []string `json:"key"`
	Bucket                   int64    `json:"bucket"`
	MilliGPUSeconds          int64    `json:"milliGPUSeconds"`
	ChargedMilliGPUSeconds   int64    `json:"chargedMilliGPUSeconds"`
	StartupMilliGPUSeconds   int64    `json:"startupMilliGPUSeconds"`
	EstimatedMilliGPUSeconds int64    `json:"estimatedMilliGPUSeconds"`
	CostMicros               int64    `json:"costMicros"`
	Currency                 string   `json:"currency"`
	Segments                 int64    `json:"segments"`
	Pods                     int64    `json:"pods"`
}

// The bodies of answers.
type (
	asOfBody struct {
		AsOf int64 `json:"asOf"`
	}
	totalsBody struct {
		Totals []total `json:"totals"`
	}
	chargedBody struct {
		Charged map[string]int64 `json:"charged"`
	}
	errorBody struct {
		Error string `json:"error"`
	}
)

// request is what a query string asks for.
type request struct {
	query            ledger.Query
	by               []ledger.Dimension
	bucket, timeZone string
}

// values are the parameters of the request, all that are not zero.
func (r *request) values() url.Values {
	v := url.Values{}
	set := func(name, value string, is bool) {
		if is {
			v.Set(name, value)
		}
	}
	q := &r.query
	set("from", strconv.FormatInt(q.From, 10), q.From != 0)
	set("to", strconv.FormatInt(q.To, 10), q.To != 0)
	v["queue"], v["namespace"] = q.Queues, q.Namespaces
	set("pod", q.PodUID, q.PodUID != "")
	set("label", q.Label, q.Label != "")
	set("labelIs", q.LabelIs, q.LabelIs != "")
	set("open", "true", q.OpenOnly)
	set("rollups", "true", q.IncludeRollups)
	for _, d := range r.by {
		v.Add("by", string(d))
	}
	set("bucket", r.bucket, r.bucket != "")
	set("timeZone", r.timeZone, r.timeZone != "")
	return v
}

// Parameters of each path.
var (
	times      = []string{"from", "to"}
	selections = append([]string{"queue", "namespace", "pod", "label", "labelIs", "open"}, times...)
	sums       = append([]string{"rollups", "by", "bucket", "timeZone"}, selections...)
)

// maxValues bounds how often a parameter may be given, and maxBytes how long a value may be.
const (
	maxValues = 1000
	maxBytes  = 1024
)

// parse reads parameters, of which those are accepted. The error names the parameter, the value and what is accepted.
func parse(v url.Values, accepted []string) (request, error) {
	var r request
	for name, values := range v {
		switch {
		case !slices.Contains(accepted, name):
			return r, fmt.Errorf("parameter %q is not known here: want %s", clip(name), strings.Join(slices.Sorted(slices.Values(accepted)), ", "))
		case len(values) > maxValues:
			return r, fmt.Errorf("parameter %s is given %d times: want at most %d", name, len(values), maxValues)
		case len(values) > 1 && name != "queue" && name != "namespace" && name != "by":
			return r, fmt.Errorf("parameter %s is given %d times: want it once", name, len(values))
		}
		for _, value := range values {
			if len(value) > maxBytes {
				return r, fmt.Errorf("parameter %s is %d bytes long: want at most %d", name, len(value), maxBytes)
			}
		}
	}
	q := &r.query
	q.Queues, q.Namespaces = v["queue"], v["namespace"]
	q.PodUID, q.Label, q.LabelIs = v.Get("pod"), v.Get("label"), v.Get("labelIs")
	r.bucket, r.timeZone = v.Get("bucket"), v.Get("timeZone")
	for _, d := range v["by"] {
		r.by = append(r.by, ledger.Dimension(d))
	}
	return r, errors.Join(
		moment(v, "from", &q.From), moment(v, "to", &q.To), flag(v, "open", &q.OpenOnly), flag(v, "rollups", &q.IncludeRollups), r.check())
}

func moment(v url.Values, name string, to *int64) error {
	if !v.Has(name) {
		return nil
	}
	n, err := strconv.ParseInt(v.Get(name), 10, 64)
	if err != nil || n < 0 {
		return fmt.Errorf("parameter %s is %q: want Unix seconds, 0 or more", name, clip(v.Get(name)))
	}
	*to = n
	return nil
}

func flag(v url.Values, name string, to *bool) error {
	switch v.Get(name) {
	case "true":
		*to = true
	case "false":
	default:
		if v.Has(name) {
			return fmt.Errorf("parameter %s is %q: want true or false", name, clip(v.Get(name)))
		}
	}
	return nil
}

// check finds what the ledger would refuse: there it would be an error like any other.
func (r *request) check() error {
	q := &r.query
	if q.To != 0 && q.To < q.From {
		return fmt.Errorf("parameter to is %d: want a time that is not before from, which is %d", q.To, q.From)
	}
	if q.LabelIs != "" && q.Label == "" {
		return errors.New("parameter labelIs is given without label: want both")
	}
	if !slices.Contains([]string{"", "hour", "day", "month"}, r.bucket) {
		return fmt.Errorf("parameter bucket is %q: want hour, day, month, or none", clip(r.bucket))
	}
	// Local is that of the server, and says nothing to who asks.
	if _, err := time.LoadLocation(r.timeZone); err != nil || r.timeZone == "Local" {
		return fmt.Errorf("parameter timeZone is %q: want UTC or a name such as Europe/Berlin", clip(r.timeZone))
	}
	for _, d := range r.by {
		if !KnownDimension(d) {
			return fmt.Errorf("parameter by is %q: want %s or label:<key>", clip(string(d)), strings.Join(Dimensions(), ", "))
		}
	}
	return nil
}

// Dimensions are what totals can be taken by, besides label:<key>.
func Dimensions() []string {
	return []string{"queue", "namespace", "user", "workload", "class", "product", "profile", "currency"}
}

// KnownDimension reports whether totals can be taken by it.
func KnownDimension(d ledger.Dimension) bool {
	label, ok := strings.CutPrefix(string(d), "label:")
	return ok && label != "" || slices.Contains(Dimensions(), string(d))
}

// clip shortens what somebody sent, for a message.
func clip(s string) string {
	const most = 100
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
