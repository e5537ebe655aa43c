package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const wasteCluster = `
node a gpus=8
node b gpus=4 product=Tesla-T4 memory=15360
node c gpus=8
node d gpus=8
node e
pod x/whole node=a main=nvidia.com/gpu:6 gpus=main=GPU-a-0,GPU-a-1,GPU-a-2,GPU-a-3,GPU-a-4,GPU-a-5
pod x/share node=b main=weft.sh/gpu-percent:50 gpus=main=GPU-b-0:500m/7680Mi
pod x/all node=d main=nvidia.com/gpu:8 gpus=main=GPU-d-0,GPU-d-1,GPU-d-2,GPU-d-3,GPU-d-4,GPU-d-5,GPU-d-6,GPU-d-7
`

func TestWasteByWhatWaits(t *testing.T) {
	for name, tc := range map[string]struct {
		pods     string
		stranded string // the nodes
		pending  int
	}{
		"nobody waits, so nothing is in vain":   {"", "", 0},
		"one fits everywhere":                   {"pod x/p main=nvidia.com/gpu:1", "", 1},
		"eight fit on the empty node":           {"pod x/p main=nvidia.com/gpu:8", "a b", 1},
		"eight fit nowhere, and one everywhere": {"pod x/p main=nvidia.com/gpu:9\npod x/q main=nvidia.com/gpu:1", "", 2},
		"one model":                             {"pod x/p main=nvidia.com/gpu:1 model=Tesla-T4", "a c", 1},
		"sixteen fit nowhere":                   {"pod x/p main=nvidia.com/gpu:16", "a b c", 1},
		"held back by a queue":                  {"pod x/p main=nvidia.com/gpu:16 said=OverBudget:too_little", "", 0},
		"held back by a gate":                   {"pod x/p main=nvidia.com/gpu:16 gate=g", "", 0},
		"of another scheduler":                  {"pod x/p main=nvidia.com/gpu:16 scheduler=other", "", 0},
		"without GPUs":                          {"pod x/p main=cpu:1", "", 0},
		"one that makes no sense":               {"pod x/p main=weft.sh/gpu-percent:0", "", 0},
	} {
		w := NewWaste(parseScenario(t, wasteCluster+tc.pods).Objects, DefaultSchedulerName)
		var stranded []string
		var sum int64
		for _, n := range w.Nodes {
			if n.Stranded {
				stranded = append(stranded, n.Node)
				sum += n.FreeMilliGPU
			}
			if n.HalfUsed != (n.Node == "a" || n.Node == "b") || n.Stranded != (n.Reason != "") {
				t.Errorf("%s: %+v", name, n)
			}
		}
		if diff := cmp.Diff(set(strings.Fields(tc.stranded)), set(stranded)); diff != "" || sum != w.StrandedMilliGPU || w.PendingPods != tc.pending {
			t.Errorf("%s: %d pods wait, %d of %d milli-GPU stranded (-want +got)\n%s", name, w.PendingPods, w.StrandedMilliGPU, sum, diff)
		}
		if w.CapacityMilliGPU != 28000 || w.AssignedMilliGPU != 14500 || w.FreeMilliGPU != 13500 || w.HalfUsedMilliGPU != 5500 {
			t.Errorf("%s: %+v", name, w)
		}
	}
}

func set(names []string) map[string]bool {
	out := map[string]bool{}
	for _, n := range names {
		out[n] = true
	}
	return out
}

// fakePrometheus answers queries by what they contain.
func fakePrometheus(t *testing.T, answers map[string]string) *prometheus {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil || r.URL.Path != "/prefix/api/v1/query" || r.Method != http.MethodPost {
			t.Errorf("%s %s, %v", r.Method, r.URL, err)
		}
		if user, password, _ := r.BasicAuth(); user != "eve" || password != "secret" {
			t.Errorf("asked as %q %q", user, password)
		}
		for part, answer := range answers {
			if strings.Contains(r.Form.Get("query"), part) {
				if strings.HasPrefix(answer, "{") {
					w.WriteHeader(http.StatusBadRequest)
				}
				_, _ = w.Write([]byte(strings.TrimPrefix(answer, "ok")))
				return
			}
		}
		t.Errorf("asked for %s", r.Form.Get("query"))
	}))
	t.Cleanup(server.Close)
	p, err := newPrometheus(strings.Replace(server.URL, "http://", "http://eve:secret@", 1)+"/prefix/", server.Client())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// vector is an answer with a value for each pod.
func vector(t *testing.T, values ...string) string {
	t.Helper()
	var out []any
	for i := 0; i < len(values); i += 2 {
		labels := map[string]string{"node": "a", "namespace": "x", "pod": values[i], "container": "main", "uid": "u-" + values[i], "gpu": "GPU-" + values[i]}
		out = append(out, map[string]any{"metric": labels, "value": []any{1795248000.25, values[i+1]}})
	}
	text, err := json.Marshal(map[string]any{"status": "success", "data": map[string]any{"resultType": "vector", "result": out}})
	if err != nil {
		t.Fatal(err)
	}
	return "ok" + string(text)
}

func TestWhoHoldsAndDoesNotUse(t *testing.T) {
	const now = 1_795_248_000
	since := func(seconds int) string { return fmt.Sprintf("%d.5", now-seconds) }
	p := fakePrometheus(t, map[string]string{
		metricHeld + " > 0": vector(t, "idle", "1000", "busy", "1000", "spiky", "250", "young", "1000", "mig", "125", "share", "500", "edge", "100", "lost", "1"),
		metricHeldSince: vector(t, "idle", since(7200), "busy", since(7200), "spiky", since(7200), "young", since(60), "mig", since(7200),
			"share", since(901), "edge", since(7200)),
		"max_over_time(" + metricUtilization + "[900s])": vector(t, "idle", "0", "busy", "0.97", "spiky", "0.0501", "young", "0", "share", "0.049",
			"edge", "0.05", "gone", "0", "lost", "NaN"),
	})
	var w Waste
	if err := w.measure(t.Context(), p, 15*time.Minute, 50, now); err != nil {
		t.Fatal(err)
	}
	hold := func(pod string, milliGPU, used, held int64) IdleHold {
		return IdleHold{
			Node: "a", GPU: "GPU-" + pod, Namespace: "x", Pod: pod, Container: "main", MilliGPU: milliGPU, UsedPerMille: used, HeldSeconds: held,
		}
	}
	want := Waste{
		Measured: true, WindowSeconds: 900, LimitPerMille: 50, IdleMilliGPU: 1600, UnmeasuredMilliGPU: 1126,
		Idle: []IdleHold{hold("idle", 1000, 0, 7200), hold("share", 500, 49, 901), hold("edge", 100, 50, 7200)},
	}
	if diff := cmp.Diff(want, w); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	var out bytes.Buffer
	if err := RenderWaste(&out, w, false, true); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"1.6 held and idle for 15m0s (used at most 5.0%), 1.13 not measured", "x/idle/main   a     GPU-idle       1  0.0%    2h0m0s"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("there is no line %q in\n%s", line, &out)
		}
	}
}

func TestAPrometheusThatDoesNotAnswer(t *testing.T) {
	for name, tc := range map[string]struct{ answer, want string }{
		"an error":       {`{"status":"error","errorType":"bad_data","error":"parse error"}`, "does not answer x{}: parse error"},
		"no API":         {"ok<html>", "answers what is none of its API"},
		"another status": {"{}", "400 Bad Request"},
		"a scalar":       {`ok{"status":"success","data":{"resultType":"scalar","result":[]}}`, `with a "scalar": want a vector`},
		"no number":      {`ok{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"many"]}]}}`, `a value is "many": want a number`},
		"no string":      {`ok{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,2]}]}}`, "a value is 2: want a string"},
	} {
		p := fakePrometheus(t, map[string]string{"x{}": tc.answer})
		if _, err := p.query(t.Context(), "x{}"); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %s", name, err, tc.want)
		}
	}
}
