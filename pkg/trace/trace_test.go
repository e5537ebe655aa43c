package trace

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// check compares the error of a reading and reports whether there is nothing else to compare.
func check(t *testing.T, err error, want string) bool {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Fatal(err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, ErrMalformed)):
		t.Fatalf("got error %v, want an ErrMalformed with %q", err, want)
	}
	return want != ""
}

func TestOpenbNodes(t *testing.T) {
	const header = "sn,cpu_milli,memory_mib,gpu,model\n"
	tests := map[string]struct {
		in   string
		want []Node
		err  string
	}{
		"nodes with and without GPUs": {
			in: header + "a,64000,262144,2,P100\nb,94000,524288,0,\n",
			want: []Node{
				{Name: "a", MilliCPU: 64000, MemoryMiB: 262144, GPUs: 2, Model: "P100", Line: 2},
				{Name: "b", MilliCPU: 94000, MemoryMiB: 524288, Line: 3},
			},
		},
		"columns in another order, a mark of UTF-8 and line ends of Windows": {
			in:   "\xef\xbb\xbfgpu,model,sn,memory_mib,cpu_milli\r\n8,V100M32,a,1,2\r\n",
			want: []Node{{Name: "a", MilliCPU: 2, MemoryMiB: 1, GPUs: 8, Model: "V100M32", Line: 2}},
		},
		"no nodes":              {in: header},
		"nothing":               {in: "", err: "f.csv: is empty: want a header with sn,cpu_milli"},
		"a column is missing":   {in: "sn,cpu_milli,memory_mib,gpu\n", err: "f.csv:1: column model is missing: want sn,cpu_milli,memory_mib,gpu,model"},
		"a column is not known": {in: "sn,cpu_milli,memory_mib,gpu,modle\n", err: `f.csv:1: column "modle" is not known: want sn,cpu_milli`},
		"a column stands twice": {in: "sn,sn,cpu_milli,memory_mib,gpu,model\n", err: `f.csv:1: column "sn" stands twice`},
		"the list ends in a row": {
			in: header + "a,1,1,1,T4\nb,1,1,1", err: "f.csv:3: 4 fields: want 5, as in the header",
		},
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
			got, err := Collect(OpenbNodes(strings.NewReader(tc.in), "f.csv"), "f.csv", "sn", 0)
			if check(t, err, tc.err) {
				return
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOpenbPods(t *testing.T) {
	const header = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,creation_time,deletion_time\n"
	tests := map[string]struct {
		in    string
		limit int
		want  []Pod
		err   string
	}{
		"every kind": {
			in: header +
				"whole,1,2,1,1000,,LS,0,10\n" +
				"share,1,2,1,460,V100M32|T4,BE,5,5\n" +
				"cpu,1,2,0,0,,BE,,\n",
			want: []Pod{
				{Name: "whole", MilliCPU: 1, MemoryMiB: 2, GPUs: 1, MilliGPU: 1000, Deleted: 10 * time.Second, Line: 2},
				{
					Name: "share", MilliCPU: 1, MemoryMiB: 2, GPUs: 1, MilliGPU: 460, Models: []string{"V100M32", "T4"},
					Created: 5 * time.Second, Deleted: 5 * time.Second, Line: 3,
				},
				{Name: "cpu", MilliCPU: 1, MemoryMiB: 2, Line: 4},
			},
		},
		"five columns, as in the multigpu lists": {
			in:   "name,cpu_milli,memory_mib,num_gpu,gpu_milli\na,1,2,2,1000\n",
			want: []Pod{{Name: "a", MilliCPU: 1, MemoryMiB: 2, GPUs: 2, MilliGPU: 1000, Line: 2}},
		},
		"the limit ends before what is malformed": {
			in: header + "a,1,2,1,1000,,,,\nb\n", limit: 1,
			want: []Pod{{Name: "a", MilliCPU: 1, MemoryMiB: 2, GPUs: 1, MilliGPU: 1000, Line: 2}},
		},
		"a share of more than a GPU": {in: header + "a,1,2,1,1001,,,,\n", err: `f.csv:2: gpu_milli is "1001": want a whole number from 0 to 1000`},
		"GPUs of nothing":            {in: header + "a,1,2,1,0,,,,\n", err: "f.csv:2: num_gpu is 1 and gpu_milli is 0: want both 0 or none"},
		"a share of no GPU":          {in: header + "a,1,2,0,500,,,,\n", err: "f.csv:2: num_gpu is 0 and gpu_milli is 500"},
		"a model list with a hole":   {in: header + "a,1,2,1,500,T4||P100,,,\n", err: `f.csv:2: gpu_spec is "T4||P100"`},
		"a negative number":          {in: header + "a,1,-2,1,500,,,,\n", err: `f.csv:2: memory_mib is "-2": want`},
		"a negative duration":        {in: header + "a,1,2,1,500,,,7,6\n", err: `f.csv:2: deletion_time is "6": want no less than creation_time, 7`},
		"a column is missing":        {in: "name,cpu_milli\n", err: "f.csv:1: column memory_mib is missing"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Collect(OpenbPods(strings.NewReader(tc.in), "f.csv"), "f.csv", "name", tc.limit)
			if check(t, err, tc.err) {
				return
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPhilly(t *testing.T) {
	const header = "timestamp,duration,num_gpus,gpu_time,cluster\n"
	tests := map[string]struct {
		in   string
		want []Job
		err  string
	}{
		"a job": {
			in: header + "2017-09-04 10:30:41,2240194.5,8,17921552.0,7f04ca\n",
			want: []Job{{
				Submitted: time.Date(2017, 9, 4, 10, 30, 41, 0, time.UTC), Duration: 2240194500 * time.Millisecond, GPUs: 8, Cluster: "7f04ca", Line: 2,
			}},
		},
		"a negative duration":       {in: header + "2017-09-04 10:30:41,-1,8,1,a\n", err: `f.csv:2: duration is "-1": want seconds from 0`},
		"a duration that is none":   {in: header + "2017-09-04 10:30:41,NaN,8,1,a\n", err: `f.csv:2: duration is "NaN"`},
		"a time that is none":       {in: header + "2017-09-04,1,8,1,a\n", err: `f.csv:2: timestamp is "2017-09-04": want a time like "2006-01-02 15:04:05"`},
		"a job of no cluster":       {in: header + "2017-09-04 10:30:41,1,8,1,\n", err: "f.csv:2: cluster is empty"},
		"GPUs that are no number":   {in: header + "2017-09-04 10:30:41,1,x,1,a\n", err: `f.csv:2: num_gpus is "x"`},
		"the list ends in a number": {in: header + "2017-09-04 10:30:41,1,8", err: "f.csv:2: 3 fields: want 5"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var got []Job
			var failed error
			for j, err := range Philly(strings.NewReader(tc.in), "f.csv") {
				if failed = err; err == nil {
					got = append(got, j)
				}
			}
			if check(t, failed, tc.err) {
				return
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// endless is a list of so many rows, made as it is read.
type endless struct {
	rows, next int
	buf        bytes.Buffer
}

func (e *endless) Read(p []byte) (int, error) {
	for e.buf.Len() < len(p) && e.next <= e.rows {
		if e.next == 0 {
			e.buf.WriteString("name,cpu_milli,memory_mib,num_gpu,gpu_milli\n")
		} else {
			fmt.Fprintf(&e.buf, "pod-%d,1000,2000,1,500\n", e.next)
		}
		e.next++
	}
	return e.buf.Read(p)
}

// TestLongListsTakeNoMemory: what is live while a list is read does not grow with the list.
func TestLongListsTakeNoMemory(t *testing.T) {
	const rows = 100_000
	live := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var early uint64
	n := 0
	for _, err := range OpenbPods(&endless{rows: rows}, "f.csv") {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 1000 {
			early = live()
		}
		if n == rows {
			if late := live(); late > early+(1<<20) {
				t.Errorf("%d bytes are live after 1000 rows, %d after %d", early, late, rows)
			}
		}
	}
	if n != rows {
		t.Errorf("%d rows, want %d", n, rows)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the disk is gone") }

func TestAFaultOfTheReaderIsNoFaultOfTheList(t *testing.T) {
	for _, err := range OpenbNodes(io.MultiReader(strings.NewReader("sn,cpu_milli,memory_mib,gpu,model\n"), broken{}), "f.csv") {
		if err == nil || errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "f.csv: the disk is gone") {
			t.Errorf("got %v", err)
		}
	}
}

// fuzz: nothing that is read makes a reader panic, an error comes last and is an *Error, and lines ascend.
func fuzz[T any](t *testing.T, list iter.Seq2[T, error], line func(T) int) {
	last, failed := 0, false
	for v, err := range list {
		if failed {
			t.Fatal("a row after an error")
		}
		if err != nil {
			var e *Error
			if failed = true; !errors.As(err, &e) || e.File != "f.csv" {
				t.Fatalf("got %T %v", err, err)
			}
			continue
		}
		if line(v) <= last {
			t.Fatalf("line %d after %d", line(v), last)
		}
		last = line(v)
	}
}

func FuzzOpenbNodes(f *testing.F) {
	f.Add([]byte("sn,cpu_milli,memory_mib,gpu,model\na,64000,262144,2,P100\nb,1,1,0,\n"))
	f.Add([]byte("\xef\xbb\xbfsn,cpu_milli,memory_mib,gpu,model\r\na,1,1,1,\"T4\"\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		fuzz(t, OpenbNodes(bytes.NewReader(in), "f.csv"), func(n Node) int { return n.Line })
	})
}

func FuzzOpenbPods(f *testing.F) {
	f.Add([]byte("name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\na,1,2,1,460,T4|P100\nb,1,2,8,1000,\nc,1,1,2,333,\n"))
	f.Add([]byte("name,cpu_milli,memory_mib,num_gpu,gpu_milli\na,1,2,0,0\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		fuzz(t, OpenbPods(bytes.NewReader(in), "f.csv"), func(p Pod) int { return p.Line })
	})
}

func FuzzPhilly(f *testing.F) {
	f.Add([]byte("timestamp,duration,num_gpus,gpu_time,cluster\n2017-09-04 10:30:41,2240194.0,8,17921552.0,7f04ca\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		fuzz(t, Philly(bytes.NewReader(in), "f.csv"), func(j Job) int { return j.Line })
	})
}
