package cli

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/ledger"
)

// snapshotText is a snapshot with queues research (limit 4) and serving, and these nodes and pods, an object in each line.
func snapshotText(nodes, pods []string) string {
	return `{"apiVersion":"snapshot.weft.sh/v1","kind":"Snapshot","taken":"2026-11-21T08:00:00Z","schedulerName":"weft",
"topologyLevels":["topology.kubernetes.io/rack"],
"queues":[{"name":"research","created":"2026-11-01T00:00:00Z","spec":{"gpus":{"limit":"4"}}},{"name":"serving","created":"2026-11-01T00:00:00Z","spec":{"gpus":{"guaranteed":"2"}}}],
"podGroups":[{"namespace":"ml","name":"train","created":"2026-11-21T07:00:00Z","minMember":2,"annotations":{"weft.sh/topology-required":"topology.kubernetes.io/rack"}}],
"nodes":[` + strings.Join(nodes, ",\n") + `],
"pods":[` + strings.Join(pods, ",\n") + `]}`
}

// aNode has four GPUs in a rack. more are fields.
func aNode(name, rack, labels string) string {
	var gpus []string
	for i := range 4 {
		gpus = append(gpus, fmt.Sprintf(`{"id":"GPU-%s-%d","index":%d,"product":"NVIDIA-H100-80GB-HBM3","memoryMiB":81559}`, name, i, i))
	}
	return fmt.Sprintf(`{"name":%q,"labels":{"nvidia.com/gpu.product":"NVIDIA-H100-80GB-HBM3","topology.kubernetes.io/rack":%q%s},"capacity":{},
"allocatable":{"cpu":"64","memory":"512Gi","pods":"110","nvidia.com/gpu":"4","weft.sh/gpu-percent":"400"},"gpus":[%s]}`,
		name, rack, labels, strings.Join(gpus, ","))
}

// aPod asks for so many GPUs. more are fields.
func aPod(name, queue string, gpus int, more string) string {
	return fmt.Sprintf(`{"namespace":"ml","name":%q,"uid":%q,"created":"2026-11-21T07:00:00Z","scheduler":"weft","queue":%q,"containers":[{"name":"main",
"requests":{"nvidia.com/gpu":"%d"}}]%s}`, name, name, queue, gpus, more)
}

// running is where a pod of one GPU runs.
func running(node string, gpu int, more string) string {
	return fmt.Sprintf(`,"node":%q,"phase":"Running","annotations":{"weft.sh/gpus":"main=GPU-%s-%d"}%s`, node, node, gpu, more)
}

const service = `,"service":true`

func aFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// whatIf is what weft plan what-if says of the snapshot.
func whatIf(t *testing.T, text string, args ...string) WhatIf {
	t.Helper()
	out, err := run(t, append([]string{"plan", "what-if", "--snapshot", aFile(t, text), "-o", "json"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	var w WhatIf
	if err := json.Unmarshal([]byte(out), &w); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWhatIf(t *testing.T) {
	spot := `,"karpenter.sh/capacity-type":"spot"`
	busy := func(node string, from int) (pods []string) { // the rest of a node
		for i := from; i < 4; i++ {
			pods = append(pods, aPod(fmt.Sprintf("%s-%d", node, i), "", 1, running(node, i, "")))
		}
		return pods
	}
	gang := []string{aPod("t0", "research", 2, `,"podGroup":"train"`), aPod("t1", "research", 2, `,"podGroup":"train"`)}
	type starts struct{ pods, gangs, milliGPU int }
	for name, c := range map[string]struct {
		nodes, pods, args []string
		before, after     starts
		moved, replaced   int
		reasons           string // of those that still wait
	}{
		"a gang needs one rack, and another node makes one": {
			nodes: []string{aNode("a", "r1", ""), aNode("b", "r2", "")}, pods: slices.Concat(gang, busy("a", 2), busy("b", 2)),
			args: []string{"--add-nodes", "1xh100"}, after: starts{2, 1, 4000},
		},
		"two nodes that are added are in one rack": {
			nodes: []string{aNode("a", "r1", "")}, pods: slices.Concat(busy("a", 0), []string{
				aPod("t0", "research", 4, `,"podGroup":"train"`), aPod("t1", "research", 4, `,"podGroup":"train"`),
			}),
			args: []string{"--add-nodes", "2xH100", "--set-limit", "research=8"}, after: starts{2, 1, 8000},
		},
		"a limit holds what has room": {
			nodes: []string{aNode("a", "r1", ""), aNode("b", "r1", "")}, pods: []string{aPod("x", "research", 3, ""), aPod("y", "research", 2, "")},
			args: []string{"--set-limit", "research=none"}, before: starts{1, 0, 3000}, after: starts{2, 0, 5000},
		},
		"a lower limit holds more": {
			nodes: []string{aNode("a", "r1", "")}, pods: []string{aPod("x", "research", 1, ""), aPod("y", "research", 1, "")},
			args: []string{"--set-limit", "research=500m"}, before: starts{2, 0, 2000}, reasons: "[{NeverWithinLimit 2}]",
		},
		"without spot what ran there looks for another place": {
			nodes: []string{aNode("a", "r1", ""), aNode("s", "r1", spot)},
			pods:  slices.Concat(busy("a", 2), busy("s", 1), []string{aPod("x", "serving", 1, `,"priority":1`)}),
			args:  []string{"--without-spot"}, before: starts{1, 0, 1000}, moved: 3, replaced: 1, after: starts{1, 0, 1000}, reasons: "[{NoRoom 2}]",
		},
		"inference on shares makes room": {
			nodes: []string{aNode("a", "r1", "")},
			pods: []string{
				aPod("i0", "serving", 1, running("a", 0, service)), aPod("i1", "serving", 1, running("a", 1, service)), aPod("i2", "serving", 1, service),
				aPod("batch", "research", 1, running("a", 2, "")), aPod("x", "research", 2, ""),
			},
			args: []string{"--share-inference", "25"}, before: starts{1, 0, 1000}, moved: 2, replaced: 2, after: starts{2, 0, 2250},
		},
		"inference of another queue stays": {
			nodes: []string{aNode("a", "r1", "")},
			pods:  slices.Concat([]string{aPod("i0", "serving", 1, running("a", 0, service)), aPod("x", "research", 1, "")}, busy("a", 1)),
			args:  []string{"--share-inference", "25", "--inference-queue", "research"}, reasons: "[{NoRoom 1}]",
		},
		"a pod that a gate holds back, one of another scheduler and one that is being deleted do not count": {
			nodes: []string{aNode("a", "r1", "")},
			pods: []string{
				aPod("x", "", 1, `,"gated":true`), aPod("y", "", 1, `,"deleting":true`), strings.Replace(aPod("z", "", 1, ""), `"weft"`, `"other"`, 1),
			},
			args: []string{"--add-nodes", "1xh100"},
		},
		"a queue that does not exist admits nothing": {
			nodes: []string{aNode("a", "r1", "")}, pods: []string{aPod("x", "gone", 1, "")}, args: []string{"--add-nodes", "1xh100"}, reasons: "[{QueueNotFound 1}]",
		},
		"a gang with too few members": {
			nodes: []string{aNode("a", "r1", "")}, pods: gang[:1], args: []string{"--add-nodes", "1xh100"}, reasons: "[{GangIncomplete 1}]",
		},
		"who has the higher priority goes first": {
			nodes: []string{aNode("a", "r1", "")}, pods: slices.Concat(busy("a", 2), []string{aPod("x", "", 1, ""), aPod("y", "", 2, `,"priority":9`)}),
			args: []string{"--set-limit", "research=9"}, before: starts{1, 0, 2000}, after: starts{1, 0, 2000}, reasons: "[{NoRoom 1}]",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := whatIf(t, snapshotText(c.nodes, c.pods), c.args...)
			reasons := fmt.Sprint(w.After.Reasons)
			if reasons == "[]" {
				reasons = ""
			}
			of := func(c Count) starts { return starts{c.PodCount, c.GangCount, int(c.MilliGPU)} }
			got := fmt.Sprint(of(w.Before.Starts), of(w.After.Starts), w.After.Moved.PodCount, w.After.Replaced.PodCount, reasons)
			if want := fmt.Sprint(c.before, c.after, c.moved, c.replaced, c.reasons); got != want {
				t.Errorf("got  %s\nwant %s\n%+v", got, want, w)
			}
		})
	}
}

// TestWhatIfIsSaidForPeople: and the lines of the queues add up.
func TestWhatIfIsSaidForPeople(t *testing.T) {
	text := snapshotText([]string{aNode("a", "r1", "")}, []string{
		aPod("x", "research", 3, `,"unknown":["persistent volumes"]`), aPod("y", "serving", 1, ""), aPod("z", "research", 2, ""),
	})
	out, err := run(t, "plan", "what-if", "--snapshot", aFile(t, text), "--add-nodes", "1xh100", "--set-limit", "research=8")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"queue research has the limit 8, which was 4", "1 node added like a, with 4 of NVIDIA-H100-80GB-HBM3", "not checked: persistent volumes of 1 pod that wait",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in it:\n%s", want, out)
		}
	}
	w := whatIf(t, text, "--add-nodes", "1xh100", "--set-limit", "research=8")
	var before, after int
	for _, q := range w.Queues {
		before, after = before+q.Before.PodCount, after+q.After.PodCount
	}
	if before != w.Before.Starts.PodCount || after != w.After.Starts.PodCount || after != 3 {
		t.Errorf("the lines add up to %d and %d: %+v", before, after, w)
	}
}

// trainLedger is a ledger in which queue train used GPUs around the clock for weeks, more on weekdays, with a gap of two days.
func trainLedger(t *testing.T) string {
	t.Helper()
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
	const day, days = 86400, 42
	var rows []ledger.Segment
	for d := range int64(days) {
		if d == 20 || d == 21 {
			continue
		}
		at := int64(november) + d*day
		n := int64(16)
		if weekday := time.Unix(at, 0).UTC().Weekday(); weekday == time.Saturday || weekday == time.Sunday {
			n = 4
		}
		add := func(queue, class string, gpus int64) {
			rows = append(rows, ledger.Segment{
				PodUID: fmt.Sprintf("%s-%s-%d", queue, class, d), Namespace: "ml", Pod: "p", Node: "n", Queue: queue, Class: class, Product: "H100",
				MilliGPU: gpus * 1000, Rate: gpus * 1000, Charged: true, Start: at, Through: at + day, End: at + day, Closed: "test",
			})
		}
		add("train", "h100", n)
		add("serve", "h100", 2)
		add("train", "h100-spot", 1)
	}
	if err := db.Commit(t.Context(), epoch, november+days*day, rows); err != nil {
		t.Fatal(err)
	}
	return path
}

// classesText is a snapshot with the classes of trainLedger, and a node of four GPUs.
var classesText = strings.Replace(snapshotText([]string{aNode("a", "r1", "")}, nil), `"queues"`, `"classes":[
{"name":"h100","spec":{"weight":"1","products":["NVIDIA-H100-80GB-HBM3"],"price":{"perGPUHour":"2.5","currency":"EUR"}}},
{"name":"h100-spot","spec":{"weight":"300m","priority":1,"nodeSelector":{"matchLabels":{"karpenter.sh/capacity-type":"spot"}},"price":{"perGPUHour":"0.5","currency":"EUR"}}}],
"queues"`, 1)

func TestPlanDemandFromTheLedger(t *testing.T) {
	path := trainLedger(t)
	out, err := run(t, "plan", "demand", "--ledger", path, "--snapshot", aFile(t, classesText), "--gpus-per-node", "4", "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var d DemandPlan
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		t.Fatal(err)
	}
	if d.HistoryBuckets != 41 || d.MissingBuckets != 2 || d.From != "2026-11-02T00:00:00Z" || d.To != "2026-12-13T00:00:00Z" {
		t.Errorf("the history: %s to %s, %d days, %d missing", d.From, d.To, d.HistoryBuckets, d.MissingBuckets)
	}
	c := d.Classes[0]
	c.Demand = Demand{}
	want := ClassDemand{
		// 6 GPUs on the weekend are two nodes of 4, and 18 on a weekday are five: of the three more, train, which ran on spot, can have
		// all that it has above its own weekend. Five days of 10 GPUs above the base cost 1200 GPU-hours.
		Class: "h100", SpotClass: "h100-spot", HaveGPUs: 4, BaseNodeCount: 2, MissingNodeCount: 1, SpotNodeCount: 3, Currency: "EUR",
		PriceMicros: 2_500_000, SpotPriceMicros: 500_000, BaseCostMicros: 8 * 7 * 24 * 2_500_000, SpotCostMicros: 10 * 5 * 24 * 500_000,
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := d.Classes[0].Demand; got.Model != "seasonal" || !got.BeatsLast || got.BaseMilliGPU != 6000 || got.PeakMilliGPU != 18000 || len(got.Points) != 7 {
		t.Errorf("%+v", got)
	}
	if s := d.Classes[1]; !s.Spot || s.BaseNodeCount != 0 || s.SpotNodeCount != 1 || s.SpotCostMicros != 7*24*500_000 {
		t.Errorf("the spot class: %+v", s)
	}
	var lines []string
	for _, q := range d.Queues {
		lines = append(lines, fmt.Sprint(q.Queue, "/", q.Class, " ", q.MaySpot, " ", q.Demand.BaseMilliGPU, " ", q.Demand.PeakMilliGPU))
	}
	if diff := cmp.Diff([]string{"serve/h100 false 2000 2000", "train/h100 true 4000 16000", "train/h100-spot true 1000 1000"}, lines); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	text, err := run(t, "plan", "demand", "--ledger", path, "--queue", "serve")
	if err != nil || !strings.Contains(text, "nothing beats the last value") || strings.Contains(text, "train") {
		t.Errorf("of one queue: %v\n%s", err, text)
	}
	text, err = run(t, "plan", "demand", "--ledger", path, "--snapshot", aFile(t, classesText), "--bucket", "hour", "--horizon", "1d")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"24 hours ahead, from 1007 hours of 2026-11-01T01:00:00Z to 2026-12-13T00:00:00Z, of which 48 are missing", "4 GPUs  ", "EUR"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in it:\n%s", want, text)
		}
	}
}

// TestSpotThatIsNotToBeHad: is told.
func TestSpotThatIsNotToBeHad(t *testing.T) {
	path := trainLedger(t)
	for args, want := range map[string]bool{"": true, "--spot-price 1 --currency EUR": false} {
		out, err := run(t, append([]string{"plan", "demand", "--ledger", path, "--spot-queue", "serve"}, strings.Fields(args)...)...)
		if err != nil || strings.Contains(out, "no GPUClass of spot nodes has its GPUs") != want {
			t.Errorf("%q: %v\n%s", args, err, out)
		}
	}
}

// TestPlanDemandFromATrace: jobs count in every bucket that they run in.
func TestPlanDemandFromATrace(t *testing.T) {
	var csv strings.Builder
	csv.WriteString("timestamp,duration,num_gpus,cluster\n2026-11-01 12:00:00,86400,4,vc\n")
	for d := 2; d <= 30; d++ {
		fmt.Fprintf(&csv, "2026-11-%02d 23:00:00,3600,10,vc\n", d)
	}
	out, err := run(t, "plan", "demand", "--trace", aFile(t, csv.String()), "-o", "json", "--horizon", "7d")
	if err != nil {
		t.Fatal(err)
	}
	var d DemandPlan
	if err := json.Unmarshal([]byte(out), &d); err != nil {
		t.Fatal(err)
	}
	if d.From != "2026-11-02T00:00:00Z" || d.To != "2026-12-01T00:00:00Z" || d.HistoryBuckets != 29 || d.Queues[0].Demand.Model != "last" {
		t.Errorf("%+v", d)
	}
	for _, p := range d.Queues[0].Demand.Points {
		if p.P50MilliGPUSeconds != 10*3600*1000 {
			t.Errorf("%+v, want 10 GPU-hours", p)
		}
	}
}

func TestMistakesInPlans(t *testing.T) {
	good := aFile(t, snapshotText([]string{aNode("a", "r1", "")}, nil))
	trace := aFile(t, "timestamp,duration,num_gpus,cluster\n2026-11-01 12:00:00,86400,4,vc\n2026-11-09 12:00:00,soon,4,vc\n")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"what-if"}, "--snapshot is not given"},
		{[]string{"what-if", "--snapshot", "/none"}, "/none: no such file"},
		{[]string{"what-if", "--snapshot", aFile(t, "{}")}, `malformed snapshot: apiVersion is "" and kind is ""`},
		{[]string{"what-if", "--snapshot", good, "--add-nodes", "h100"}, `--add-nodes is "h100": want COUNTxPRODUCT`},
		{[]string{"what-if", "--snapshot", good, "--add-nodes", "2xb200"}, `no node of the snapshot has GPUs of a model with "b200" in its name: want one of NVIDIA-H100-80GB-HBM3`},
		{[]string{"what-if", "--snapshot", good, "--set-limit", "research"}, `--set-limit is "research": want QUEUE=GPUS`},
		{[]string{"what-if", "--snapshot", good, "--set-limit", "research=-1"}, "want QUEUE=GPUS"},
		{[]string{"what-if", "--snapshot", good, "--set-limit", "gone=1"}, `the snapshot has no queue "gone": want one of research, serving`},
		{[]string{"what-if", "--snapshot", good, "--set-limit", "serving=1"}, "the queue is guaranteed 2 GPUs: want no less"},
		{[]string{"what-if", "--snapshot", good, "--share-inference", "101"}, "--share-inference is 101: want percent, 1 to 100"},
		{[]string{"what-if", "--snapshot", good, "--share-inference", "10", "--inference-queue", "gone"}, `--inference-queue is "gone": want one of research, serving`},
		{[]string{"what-if", "--snapshot", good, "--inference-queue", "research"}, "--inference-queue is given without --share-inference"},
		{[]string{"demand", "--trace", trace}, `:3: duration is "soon": want seconds`},
		{[]string{"demand", "--trace", trace, "--ledger", "x"}, "--trace and --ledger are given: want one of them"},
		{[]string{"demand", "--horizon", "36h"}, `--horizon is "36h": want whole days from 1d to 90d`},
		{[]string{"demand", "--horizon", "100d"}, `--horizon is "100d"`},
		{[]string{"demand", "--history", "1h"}, `--history is "1h": want from 1d to 3650d`},
		{[]string{"demand", "--bucket", "week"}, `--bucket is "week": want hour or day`},
		{[]string{"demand", "--base", "101"}, "--base is 101: want percent, 0 to 100"},
		{[]string{"demand", "--gpus-per-node", "0"}, "--gpus-per-node is 0: want 1 to 1024"},
		{[]string{"demand", "--price", "2"}, `--currency is "", --price "2"`},
		{[]string{"demand", "--price", "dear", "--currency", "EUR"}, `--price is "dear": want a price`},
		{[]string{"demand", "--price", "2", "--currency", "euro"}, `--currency is "euro": want a code of ISO 4217`},
		{[]string{"demand", "--class", "h100"}, "--class is for --trace"},
		{[]string{"demand", "--ledger", trainLedger(t), "--queue", "gone"}, `queue "gone" wanted nothing from 2026-11-02T00:00:00Z to 2026-12-13T00:00:00Z: want one of serve, train`},
		{[]string{"demand", "-o", "csv"}, `--output is "csv": want one of json, yaml`},
	} {
		if _, err := run(t, append([]string{"plan"}, c.args...)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("weft plan %v: got %v, want %s", c.args, err, c.want)
		}
	}
}

func TestEveryFieldOfPlansIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/planning.md")
	if err != nil {
		t.Fatal(err)
	}
	for heading, value := range map[string]any{"### Fields of weft plan demand": DemandPlan{}, "### Fields of weft plan what-if": WhatIf{}} {
		_, section, _ := strings.Cut(string(text), heading)
		section, _, _ = strings.Cut(section, "\n#")
		want := map[string]string{}
		fieldsOf(t, reflect.TypeOf(value), "", want)
		if diff := cmp.Diff(want, documented(section)); diff != "" {
			t.Errorf("docs/planning.md, %q, against %T (- the program, + the page):\n%s", heading, value, diff)
		}
		if len(want) == 0 || len(slices.Collect(maps.Keys(want))) < 10 {
			t.Errorf("%T has no fields", value)
		}
	}
}
