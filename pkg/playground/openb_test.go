package playground

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/validation"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
)

func TestReadOpenbNodes(t *testing.T) {
	const header = "sn,cpu_milli,memory_mib,gpu,model\n"
	type row struct {
		Name, Type, Product  string
		CPU, Memory          int64
		GPUs                 int
		MemoryOfGPU, Percent int64
	}
	tests := map[string]struct {
		in   string
		want []row
		err  string
	}{
		"nodes with and without GPUs": {
			in: header + "a,64000,262144,2,P100\nb,94000,524288,0,\n",
			want: []row{
				{Name: "a", Type: "openb-2xp100", Product: "P100", CPU: 64000, Memory: 262144, GPUs: 2, MemoryOfGPU: 16384, Percent: 200},
				{Name: "b", Type: "openb-cpu", CPU: 94000, Memory: 524288},
			},
		},
		"columns in another order, some unknown": {
			in:   "gpu,model,zone,sn,memory_mib,cpu_milli\n8,V100M32,x,a,1,2\n",
			want: []row{{Name: "a", Type: "openb-8xv100m32", Product: "V100M32", CPU: 2, Memory: 1, GPUs: 8, MemoryOfGPU: 32768, Percent: 800}},
		},
		"a model that is not known has some memory": {
			in:   header + "a,1,1,1,X9\n",
			want: []row{{Name: "a", Type: "openb-1xx9", Product: "X9", CPU: 1, Memory: 1, GPUs: 1, MemoryOfGPU: 16384, Percent: 100}},
		},
		"no nodes":              {in: header},
		"nothing":               {in: "", err: "f.csv is empty: want a header with sn,cpu_milli"},
		"a column is missing":   {in: "sn,cpu_milli,memory_mib,gpu\n", err: "f.csv:1: column model is missing"},
		"a column stands twice": {in: "sn,sn,cpu_milli,memory_mib,gpu,model\n", err: `f.csv:1: column "sn" stands twice`},
		"too few fields":        {in: header + "a,1,1,1,T4\nb,1,1,1\n", err: "f.csv:3: 4 fields: want 5, as in the header"},
		"too many fields":       {in: header + "a,1,1,1,T4,\n", err: "f.csv:2: 6 fields: want 5"},
		"a number that is none": {in: header + "a,64k,1,1,T4\n", err: `f.csv:2: cpu_milli is "64k": want a whole number from 1 to 1000000000`},
		"a number below":        {in: header + "a,1,1,-1,T4\n", err: `f.csv:2: gpu is "-1": want a whole number from 0 to 64`},
		"a number above":        {in: header + "a,1,1,65,T4\n", err: `f.csv:2: gpu is "65": want`},
		"a number with a dot":   {in: header + "a,1,1.5,1,T4\n", err: `f.csv:2: memory_mib is "1.5": want`},
		"a huge number":         {in: header + "a,99999999999999999999,1,1,T4\n", err: "f.csv:2: cpu_milli is"},
		"a name that is none":   {in: header + "A_1,1,1,1,T4\n", err: `f.csv:2: sn is "A_1": a lowercase RFC 1123 label`},
		"an empty name":         {in: header + ",1,1,1,T4\n", err: `f.csv:2: sn is ""`},
		"a name that stands twice": {
			in: header + "a,1,1,1,T4\n\nb,1,1,1,T4\na,1,1,1,T4\n", err: `f.csv:5: sn is "a", as in line 2: want each name once`,
		},
		"GPUs without a model":  {in: header + "a,1,1,1,\n", err: `f.csv:2: model is "": want models of letters`},
		"a model with a space":  {in: header + "a,1,1,1,Tesla T4\n", err: `f.csv:2: model is "Tesla T4": want models of letters`},
		"a quote is not closed": {in: header + "a,1,1,1,\"T4\n", err: "f.csv:2: extraneous or missing"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			nodes, err := ReadOpenbNodes(strings.NewReader(tc.in), "f.csv")
			if checkError(t, err, tc.err) {
				return
			}
			var got []row
			for _, n := range nodes {
				percent := n.Object().Status.Allocatable[podspec.ResourceGPUPercent]
				r := row{Name: n.Name, Type: n.InstanceType, CPU: n.CPUMilli, Memory: n.MemoryMiB, GPUs: len(n.Devices), Percent: percent.Value()}
				if r.GPUs > 0 {
					r.Product, r.MemoryOfGPU = n.Devices[0].Product, n.Devices[0].MemoryMiB
				}
				got = append(got, r)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestReadOpenbPods(t *testing.T) {
	const header = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos\n"
	tests := map[string]struct {
		in    string
		limit int
		want  OpenbPods
		err   string
	}{
		"every kind": {
			in: header +
				"whole,1,2,1,1000,,LS\n" +
				"gang,1,2,8,1000,V100M32,LS\n" +
				"share,1,2,1,460,V100M32|T4|T4,BE\n" +
				"two-shares,1,2,2,500,,BE\n" +
				"cpu,1,2,0,0,,BE\n",
			want: OpenbPods{Pods: []Pod{
				{Name: "whole", CPUMilli: 1, MemoryMiB: 2, GPUs: 1},
				{Name: "gang", CPUMilli: 1, MemoryMiB: 2, GPUs: 8, Products: []string{"V100M32"}},
				{Name: "share", CPUMilli: 1, MemoryMiB: 2, Percent: 46, Count: 1, Products: []string{"T4", "V100M32"}},
				{Name: "two-shares", CPUMilli: 1, MemoryMiB: 2, Percent: 50, Count: 2},
				{Name: "cpu", CPUMilli: 1, MemoryMiB: 2},
			}},
		},
		"a share that is no whole percent is rounded up": {
			in: header + "a,0,0,1,1,,\nb,0,0,1,991,,\nc,0,0,1,990,,\n",
			want: OpenbPods{Rounded: 2, Pods: []Pod{
				{Name: "a", Percent: 1, Count: 1}, {Name: "b", Percent: 100, Count: 1}, {Name: "c", Percent: 99, Count: 1},
			}},
		},
		"five columns, as in the multigpu lists": {
			in:   "name,cpu_milli,memory_mib,num_gpu,gpu_milli\na,1,2,2,1000\n",
			want: OpenbPods{Pods: []Pod{{Name: "a", CPUMilli: 1, MemoryMiB: 2, GPUs: 2}}},
		},
		"the limit ends before what is malformed": {
			in: header + "a,1,2,1,1000,,\nb\n", limit: 1,
			want: OpenbPods{Pods: []Pod{{Name: "a", CPUMilli: 1, MemoryMiB: 2, GPUs: 1}}},
		},
		"a share of more than a GPU": {in: header + "a,1,2,1,1001,,\n", err: `f.csv:2: gpu_milli is "1001": want a whole number from 0 to 1000`},
		"GPUs of nothing":            {in: header + "a,1,2,1,0,,\n", err: "f.csv:2: num_gpu is 1 and gpu_milli is 0: want both 0 or none"},
		"a share of no GPU":          {in: header + "a,1,2,0,500,,\n", err: "f.csv:2: num_gpu is 0 and gpu_milli is 500"},
		"a model list with a hole":   {in: header + "a,1,2,1,500,T4||P100,\n", err: `f.csv:2: gpu_spec is "T4||P100"`},
		"not a number":               {in: header + "a,1,,1,500,,\n", err: `f.csv:2: memory_mib is "": want`},
		"a column is missing":        {in: "name,cpu_milli\n", err: "f.csv:1: column memory_mib is missing"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ReadOpenbPods(strings.NewReader(tc.in), "f.csv", tc.limit)
			if checkError(t, err, tc.err) {
				return
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			checkPods(t, got.Pods)
		})
	}
}

// checkError compares an error and reports whether there is nothing else to compare.
func checkError(t *testing.T, err error, want string) bool {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Fatal(err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, ErrMalformed)):
		t.Fatalf("got error %v, want an ErrMalformed with %q", err, want)
	}
	return want != ""
}

// checkPods: every pod means to the scheduler what it means here.
func checkPods(t *testing.T, pods []Pod) {
	t.Helper()
	for _, p := range pods {
		r, err := podspec.Request(p.Object())
		if err != nil {
			t.Fatalf("pod %+v: %v", p, err)
		}
		want := p.GPUs*gpu.WholeMilliGPU + p.Percent*10*max(1, p.Count)
		if r.MilliGPU() != want {
			t.Fatalf("pod %+v asks for %d milli-GPU, want %d", p, r.MilliGPU(), want)
		}
		if diff := cmp.Diff(p.Products, r.Products); !r.Empty() && diff != "" {
			t.Fatalf("pod %+v: products: %s", p, diff)
		}
	}
}

// dataDir is the folder with the traces, which lie beside the repository; the test is skipped without them.
func dataDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("WEFT_DATA")
	if dir == "" {
		root, err := RepositoryRoot()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(root, "..", "shared", "data")
	}
	if _, err := os.Stat(filepath.Join(dir, "openb")); err != nil {
		if os.Getenv("WEFT_REQUIRE_DATA") == "1" {
			t.Fatalf("the traces are missing, and WEFT_REQUIRE_DATA is 1: %v", err)
		}
		t.Skipf("the traces are missing: name their folder in WEFT_DATA (%v)", err)
	}
	return filepath.Join(dir, "openb")
}

func TestOpenbTraces(t *testing.T) {
	dir := dataDir(t)
	nodes, _, err := LoadOpenb(filepath.Join(dir, "openb_node_list_gpu_node.csv"), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes) != 1213 || Capacity(nodes) != 6212*gpu.WholeMilliGPU {
		t.Errorf("%d nodes with %d milli-GPU, want 1213 with 6212000", len(nodes), Capacity(nodes))
	}
	for _, n := range nodes {
		if err := n.validate(); err != nil {
			t.Error(err)
		}
	}
	lists, err := filepath.Glob(filepath.Join(dir, "openb_pod_list_*.csv"))
	if err != nil || len(lists) == 0 {
		t.Fatalf("no pod lists in %s (%v)", dir, err)
	}
	for _, list := range lists {
		_, pods, err := LoadOpenb(filepath.Join(dir, "openb_node_list_all_node.csv"), list, 0)
		if err != nil {
			t.Error(err)
			continue
		}
		if len(pods.Pods) < 7000 || pods.Rounded > 0 {
			t.Errorf("%s: %d pods, %d rounded; want more than 7000 in whole percents", filepath.Base(list), len(pods.Pods), pods.Rounded)
		}
		checkPods(t, pods.Pods)
	}
}

func FuzzReadOpenbNodes(f *testing.F) {
	f.Add([]byte("sn,cpu_milli,memory_mib,gpu,model\na,64000,262144,2,P100\nb,1,1,0,\n"))
	f.Add([]byte("\xef\xbb\xbfsn,cpu_milli,memory_mib,gpu,model\r\na,1,1,1,\"T4\"\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		nodes, err := ReadOpenbNodes(bytes.NewReader(in), "f.csv")
		if err != nil {
			if nodes != nil || !errors.Is(err, ErrMalformed) {
				t.Fatalf("%d nodes beside the error %v", len(nodes), err)
			}
			return
		}
		for _, n := range nodes {
			if err := n.validate(); err != nil {
				t.Fatal(err)
			}
			for key, value := range n.Object().Labels {
				if msgs := validation.IsValidLabelValue(value); len(msgs) > 0 {
					t.Fatalf("label %s=%q: %v", key, value, msgs)
				}
			}
		}
	})
}

func FuzzReadOpenbPods(f *testing.F) {
	f.Add([]byte("name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\na,1,2,1,460,T4|P100\nb,1,2,8,1000,\nc,1,1,2,333,\n"))
	f.Add([]byte("name,cpu_milli,memory_mib,num_gpu,gpu_milli\na,1,2,0,0\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		pods, err := ReadOpenbPods(bytes.NewReader(in), "f.csv", 0)
		if err != nil {
			if pods.Pods != nil || !errors.Is(err, ErrMalformed) {
				t.Fatalf("%d pods beside the error %v", len(pods.Pods), err)
			}
			return
		}
		checkPods(t, pods.Pods)
	})
}
