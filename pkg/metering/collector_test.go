package metering

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/testutil"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvml"
	"weft.sh/weft/pkg/slot"
)

// scrapeOf is every series, without what all have in common, sorted. The registry refuses what was not described and what is there
// twice.
func scrapeOf(t *testing.T, m *Meter) []string {
	t.Helper()
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(m.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatalf("the scrape fails: %v", err)
	}
	var out []string
	for _, f := range families {
		for _, s := range f.GetMetric() {
			var labels []string
			for _, l := range s.GetLabel() {
				if v := l.GetValue(); v != "" && l.GetName() != "node" && l.GetName() != "namespace" {
					labels = append(labels, l.GetName()+"="+v)
				}
			}
			out = append(out, fmt.Sprintf("%s{%s} %v", strings.TrimPrefix(f.GetName(), "weft_node_"), strings.Join(labels, ","),
				s.GetGauge().GetValue()+s.GetCounter().GetValue()))
		}
	}
	slices.Sort(out)
	return out
}

// full is a world in which every metric has a series.
func full(t *testing.T) (*world, *Meter) {
	w, _ := newWorld(t)
	w.proc = procOf(t, map[int]string{1: cgroupOf(podA, id1), 3: "0::/user.slice\n"})
	w.inventory = cluster.NewInventory(cluster.SourceSlices, w.inventory.Devices[:3])
	place := gpu.Instance{Profile: "3g.40gb", Start: 4, Size: 4}
	w.host.GPUs[2].MIGDevices = []nvml.MIGDevice{{Instance: place, UUID: "MIG-1", MemoryMiB: 40_000}}
	w.book = bookOf(
		bound(t, podA, "main=g0:250m/20480Mi", "main", at(0)),
		bound(t, podB, "x=g1", "x", at(1)),
		bound(t, podB, "x=g1;y=m0:3g.40gb@4:4", "y", at(2)),
	)
	w.said["g0"] = nvml.Utilisation{
		Until: 1, UsedMiB: known(4096), SMPercent: known(55), MemoryBusPercent: known(20), PowerMilliwatt: known(250_500),
		Processes: []nvml.ProcessUtilisation{process(1, 1024, 25), process(3, 2048, 30)},
	}
	w.said["g1"] = nvml.Utilisation{UsedMiB: known(0), SMPercent: known(100)}
	w.said["m0"] = nvml.Utilisation{UsedMiB: known(3), Instances: []nvml.InstanceUtilisation{{UUID: "MIG-1", UsedMiB: known(2)}}}
	m := w.meter()
	w.now = at(4)
	m.measure(t.Context())
	return w, m
}

func TestSeries(t *testing.T) {
	w, m := full(t)
	hold := func(pod, container, id, instance string) string {
		s := "{container=" + container + ",gpu=" + id
		if instance != "" {
			s += ",instance=" + instance
		}
		return s + ",pod=pod-" + pod + ",uid=" + pod + "} "
	}
	a, x, y := hold(podA, "main", "g0", ""), hold(podB, "x", "g1", ""), hold(podB, "y", "m0", "3g.40gb@4")
	var none []string
	for _, id := range []string{"g0", "g1", "m0"} {
		for _, r := range reasons {
			if id != "g0" || r != reasonHost {
				none = append(none, "gpu_unattributed_processes{gpu="+id+",reason="+r+"} 0")
			}
		}
	}
	want := append(none,
		"container_gpu_allocated_seconds_total"+a+"1", "container_gpu_allocated_seconds_total"+x+"3", "container_gpu_allocated_seconds_total"+y+"1",
		"container_gpu_milligpu"+a+"250", "container_gpu_milligpu"+x+"1000", "container_gpu_milligpu"+y+"500",
		"container_gpu_start_time_seconds"+a+fmt.Sprint(float64(start.Unix())),
		"container_gpu_start_time_seconds"+x+fmt.Sprint(float64(start.Unix()+1)),
		"container_gpu_start_time_seconds"+y+fmt.Sprint(float64(start.Unix()+2)),
		"container_gpu_memory_bytes"+a+fmt.Sprint(float64(20480<<20)),
		"container_gpu_memory_bytes"+x+fmt.Sprint(float64(80_000<<20)),
		"container_gpu_memory_bytes"+y+fmt.Sprint(float64(40_000<<20)),
		"container_gpu_memory_used_bytes"+a+fmt.Sprint(float64(1024<<20)),
		"container_gpu_memory_used_bytes"+x+"0",
		"container_gpu_memory_used_bytes"+y+fmt.Sprint(float64(2<<20)),
		"container_gpu_utilization_ratio"+a+"0.25", "container_gpu_utilization_ratio"+x+"1",

		"gpu_info{driver=999.1,gpu=g0,index=0,isolation=mps,product=H100} 1",
		"gpu_info{driver=999.1,gpu=g1,index=1,isolation=none,product=H100} 1",
		"gpu_info{driver=999.1,gpu=m0,index=2,isolation=mig,product=A100} 1",
		"gpu_healthy{gpu=g0} 1", "gpu_healthy{gpu=g1} 0", "gpu_healthy{gpu=m0} 1",
		"gpu_memory_total_bytes{gpu=g0} "+fmt.Sprint(float64(80_000<<20)),
		"gpu_memory_total_bytes{gpu=g1} "+fmt.Sprint(float64(80_000<<20)),
		"gpu_memory_total_bytes{gpu=m0} "+fmt.Sprint(float64(80_000<<20)),
		"gpu_memory_used_bytes{gpu=g0} "+fmt.Sprint(float64(4096<<20)),
		"gpu_memory_used_bytes{gpu=g1} 0",
		"gpu_memory_used_bytes{gpu=m0} "+fmt.Sprint(float64(3<<20)),
		"gpu_utilization_ratio{gpu=g0} 0.55", "gpu_utilization_ratio{gpu=g1} 1",
		"gpu_memory_bus_utilization_ratio{gpu=g0} 0.2",
		"gpu_power_watts{gpu=g0} 250.5",
		"gpu_unattributed_processes{gpu=g0,reason=host} 1",
		"gpu_unattributed_memory_used_bytes{gpu=g0,reason=host} "+fmt.Sprint(float64(2048<<20)),
		"gpu_measure_failures_total{} 1", // m1, which the inventory does not have
	)
	slices.Sort(want)
	if diff := cmp.Diff(want, scrapeOf(t, m)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// After the end the last value stays for a while, and what was measured does not.
	w.book = bookOf(w.book.Records[0])
	w.now = at(6)
	ended := []string{
		"container_gpu_allocated_seconds_total" + x + "5", "container_gpu_allocated_seconds_total" + y + "2",
		"container_gpu_milligpu" + x + "0", "container_gpu_milligpu" + y + "0",
		"container_gpu_start_time_seconds" + x + fmt.Sprint(float64(start.Unix()+1)),
		"container_gpu_start_time_seconds" + y + fmt.Sprint(float64(start.Unix()+2)),
	}
	ofB := func() []string {
		return slices.DeleteFunc(scrapeOf(t, m), func(s string) bool { return !strings.Contains(s, "uid="+podB) })
	}
	for _, seconds := range []float64{6, 100, 305.9} {
		w.now = at(seconds)
		if diff := cmp.Diff(ended, ofB()); diff != "" {
			t.Errorf("%v s (-want +got):\n%s", seconds, diff)
		}
	}
	w.now = at(306)
	if got := ofB(); len(got) > 0 {
		t.Errorf("five minutes after the end there are still\n%s", strings.Join(got, "\n"))
	}
}

// TestNoSeriesTwice: the registry makes the whole scrape fail for one series too many.
func TestNoSeriesTwice(t *testing.T) {
	w, m := newWorld(t)
	record := bound(t, "a", "main=g0", "main", at(0))
	seconds := func() []string {
		return slices.DeleteFunc(scrapeOf(t, m), func(s string) bool { return !strings.HasPrefix(s, "container_gpu_allocated_seconds_total{") })
	}
	const series = "container_gpu_allocated_seconds_total{container=main,gpu=g0,pod=pod-a,uid=a} "
	for _, step := range []struct {
		name string
		book slot.Book
		want string
	}{
		{"held", bookOf(record), "1"},
		{"released", slot.Book{}, "2"},
		{"held again, and counted from then", bookOf(bound(t, "a", "main=g0", "main", at(2))), "1"},
		{"released again", slot.Book{}, "2"},
	} {
		w.now = w.now.Add(1e9)
		w.book = step.book
		got := seconds()
		if !slices.Contains(got, series+step.want) {
			t.Errorf("%s: want %s%s, got\n%s", step.name, series, step.want, strings.Join(got, "\n"))
		}
	}
}

// TestTheNamesFollowPrometheusRules has names and help of what is served checked by Prometheus's own linter.
func TestTheNamesFollowPrometheusRules(t *testing.T) {
	_, m := full(t)
	text := served(t, m)
	problems, err := testutil.NewPromLinter(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p.String())
	}
	if got := strings.Count(text, "# HELP "); got != len(descs) {
		t.Errorf("%d metrics are shown of %d: the test has to make a series of each", got, len(descs))
	}
	const line = `weft_node_container_gpu_milligpu{container="y",gpu="m0",instance="3g.40gb@4",namespace="ns",node="n",pod="pod-` + podB + `",uid="` + podB + `"} 500`
	if !strings.Contains(text, "\n"+line+"\n") {
		t.Errorf("want\n%s\nin\n%s", line, text)
	}
}

// served is what a scrape gets.
func served(t *testing.T, m *Meter) string {
	t.Helper()
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(m.Collector())
	answer := httptest.NewRecorder()
	metrics.HandlerFor(registry, metrics.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if answer.Code != http.StatusOK {
		t.Fatalf("the scrape fails: %d %s", answer.Code, answer.Body)
	}
	return answer.Body.String()
}
