package simulator

import (
	"encoding/csv"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"weft.sh/weft/pkg/trace"
)

// dataDir is the folder of the openb trace, which lies beside the repository; the test is skipped without it.
func dataDir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("WEFT_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "data")
	}
	dir = filepath.Join(dir, "openb")
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("WEFT_REQUIRE_DATA") == "1" {
			t.Fatalf("the traces are missing, and WEFT_REQUIRE_DATA is 1: %v", err)
		}
		t.Skipf("the traces are missing: name their folder in WEFT_DATA (%v)", err)
	}
	return dir
}

func openb(t testing.TB, list string) *Workload {
	t.Helper()
	dir := dataDir(t)
	nodes, pods, err := trace.Load(filepath.Join(dir, "openb_node_list_gpu_node.csv"), filepath.Join(dir, "openb_pod_list_"+list+".csv"), 0)
	if err != nil {
		t.Fatal(err)
	}
	w, err := NewWorkload(list, nodes, pods)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// published names the policies as the published figures do.
var published = map[string]string{
	"random": "Random", "dotprod": "DotProd", "gpuclustering": "GpuClustering", "gpupacking": "GpuPacking", "bestfit": "BestFit", "fgd": "FGD",
}

// TestPublishedResultsAreReproduced: the means over the published seeds of what is allocated, and of what is a fragment, are
// the published ones, for every list, when 100 percent have arrived and at the end.
func TestPublishedResultsAreReproduced(t *testing.T) {
	dir := dataDir(t)
	f, err := os.Open(filepath.Join(dir, "fgd_expected.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{}
	var lists []string
	for _, row := range rows[1:] {
		mean, err := strconv.ParseFloat(row[4], 64)
		if err != nil {
			t.Fatal(err)
		}
		want[strings.Join(row[:4], " ")] = mean
		if !slices.Contains(lists, row[0]) {
			lists = append(lists, row[0])
		}
	}
	if len(lists) != 9 {
		t.Fatalf("published figures are of %d lists, want 9", len(lists))
	}
	type sum struct{ alloc, frag float64 }
	sums := map[string]*sum{}
	lineup := Lineup{Load: 1.3, Policies: []string{"random", "dotprod", "gpuclustering", "gpupacking", "bestfit", "fgd"}}
	if underRace {
		lists, lineup.Policies = []string{"gpushare100"}, []string{"bestfit", "fgd"}
	}
	for _, list := range lists {
		lineup.Workloads = append(lineup.Workloads, openb(t, list))
	}
	lineup.Seeds = []int64{42, 43, 44, 45, 46, 47, 48, 49, 50, 51}
	err = lineup.Run(t.Context(), func(l Line) error {
		for _, load := range []int{100, 130} {
			alloc, frag, ok := l.curve.at(load)
			if !ok {
				t.Errorf("%s %s %d: no pod arrived at %d percent", l.Workload, l.Policy, l.Seed, load)
			}
			key := l.Workload + " " + l.Policy + " " + strconv.Itoa(load)
			if sums[key] == nil {
				sums[key] = &sum{}
			}
			sums[key].alloc += alloc / float64(len(lineup.Seeds))
			sums[key].frag += frag / float64(len(lineup.Seeds))
		}
		return nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, policy := range lineup.Policies {
		tolerance := 0.02
		switch policy {
		case "fgd":
			tolerance = 0.1
		case "random": // draws of its own: means of ten differ by chance
			tolerance = 0.25
		}
		var largest, largestFrag float64
		var where string
		for _, list := range lists {
			for _, load := range []string{"100", "130"} {
				got := sums[list+" "+policy+" "+load]
				alloc, ok := want[list+" "+published[policy]+" alloc_pct "+load]
				frag, ok2 := want[list+" "+published[policy]+" frag_amount_pct_of_cluster "+load]
				if !ok || !ok2 {
					t.Fatalf("%s %s: no figure is published", list, policy)
				}
				d := math.Abs(got.alloc - alloc)
				if d > tolerance {
					t.Errorf("%s %s at %s percent: %.3f allocated, published %.3f", list, policy, load, got.alloc, alloc)
				}
				if d > largest {
					largest, where = d, list+" at "+load
				}
				largestFrag = max(largestFrag, math.Abs(got.frag-frag))
			}
		}
		t.Logf("%-14s differs from the published means by at most %.4f points (%s); fragmentation by %.4f", policy, largest, where, largestFrag)
		if largestFrag > tolerance {
			t.Errorf("%s: fragmentation differs by %.4f", policy, largestFrag)
		}
	}
}

func BenchmarkRun(b *testing.B) {
	w := openb(b, "default")
	for _, policy := range PolicyNames() {
		b.Run(policy, func(b *testing.B) {
			pods := 0
			for b.Loop() {
				l, err := simulate(b.Context(), w, nil, policy, 42, 1.3, nil, nil, func(int, int) {})
				if err != nil {
					b.Fatal(err)
				}
				pods += l.Pods
			}
			b.ReportMetric(float64(pods)/b.Elapsed().Seconds(), "pods/s")
		})
	}
}
