package gang

import (
	"fmt"
	"testing"
	"time"

	"weft.sh/weft/pkg/gpu"
)

// fullTown is 512 nodes of 8 GPUs that pods of so many GPUs fill, and a gang of members of 8.
func fullTown(b *testing.B, each, members int) (*town, []Unit, []Running) {
	b.Helper()
	sizes := make([]int, 512)
	for i := range sizes {
		sizes[i] = 8
	}
	t := newTown(sizes...)
	t.want(members, []int{members}, whole(8))
	var units []Unit
	var running []Running
	for i := range t.Nodes {
		for k := range 8 / each {
			uid := fmt.Sprintf("p%d-%d", i, k)
			if !t.put(uid, i, whole(each)) {
				b.Fatal("no room")
			}
			units = append(units, t.unit(int32((i+k)%3), int64((i*7919+k*31)%1000)*gpu.WholeMilliGPU, uid))
			r := t.running(uid, 0)
			r.End = noon.Add(time.Duration(1+(i*7919+k*31)%1000) * time.Minute)
			running = append(running, r)
		}
	}
	return t, units, running
}

func BenchmarkPreempt(b *testing.B) {
	for _, tc := range []struct{ each, members int }{{8, 1}, {8, 64}, {8, 512}, {1, 1}, {1, 64}, {8, 513}} {
		b.Run(fmt.Sprintf("%d pods, %d members", 4096/tc.each, tc.members), func(b *testing.B) {
			t, units, _ := fullTown(b, tc.each, tc.members)
			victims := 0
			for b.Loop() {
				_, v, _ := Preempt(&t.Problem, 9, units, nil, Caps{})
				victims = len(v)
			}
			b.ReportMetric(float64(victims), "victims")
		})
	}
}

// BenchmarkReclaim has pods of 64 queues in 8 teams, each of which gives back half of what it has.
func BenchmarkReclaim(b *testing.B) {
	for _, tc := range []struct{ each, members int }{{8, 64}, {8, 512}, {1, 1}, {1, 64}, {1, 256}} {
		b.Run(fmt.Sprintf("%d pods, %d members", 4096/tc.each, tc.members), func(b *testing.B) {
			t, units, _ := fullTown(b, tc.each, tc.members)
			caps := Caps{MilliGPU: make([]int64, 64+8)}
			for u := range units {
				queue := u / (len(units) / 64)
				units[u].Owed = true
				o := &units[u].Pods[0]
				o.MilliGPU, o.Groups = int64(tc.each)*gpu.WholeMilliGPU, []int{queue, 64 + queue%8}
				for _, g := range o.Groups {
					caps.MilliGPU[g] += o.MilliGPU / 2
				}
			}
			victims := 0
			for b.Loop() {
				_, v, _ := Preempt(&t.Problem, 0, units, nil, caps)
				victims = len(v)
			}
			b.ReportMetric(float64(victims), "victims")
		})
	}
}

func BenchmarkStart(b *testing.B) {
	for _, tc := range []struct{ each, members int }{{8, 64}, {1, 64}, {1, 512}} {
		b.Run(fmt.Sprintf("%d pods, %d members", 4096/tc.each, tc.members), func(b *testing.B) {
			t, _, running := fullTown(b, tc.each, tc.members)
			for b.Loop() {
				if _, _, ok := Start(&t.Problem, running, noon); !ok {
					b.Fatal("no start")
				}
			}
		})
	}
}

func BenchmarkDrain(b *testing.B) {
	t, _, running := fullTown(b, 1, 64)
	for b.Loop() {
		if _, rejection := Drain(&t.Problem, running); !rejection.OK() {
			b.Fatal(rejection.Message())
		}
	}
}
