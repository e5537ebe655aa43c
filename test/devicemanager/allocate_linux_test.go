package devicemanager

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/deviceplugin"
	"weft.sh/weft/pkg/slot"
)

// timed notes how long Allocate takes in a handler.
type timed struct {
	deviceplugin.Handler
	mu    *sync.Mutex
	times *[]time.Duration
}

func (h timed) Allocate(ctx context.Context, r slot.Resource, slots []string) (string, error) {
	begin := time.Now()
	defer func() {
		took := time.Since(begin)
		h.mu.Lock()
		defer h.mu.Unlock()
		*h.times = append(*h.times, took)
	}()
	return h.Handler.Allocate(ctx, r, slots)
}

// percentile is the time that so many of a hundred are within.
func percentile(times []time.Duration, percent int) float64 {
	sorted := slices.Sorted(slices.Values(times))
	return float64(sorted[(len(sorted)-1)*percent/100]) / float64(time.Millisecond)
}

// BenchmarkAllocate is how long the kubelet takes to give a pod its share, on a node of eight GPUs with 100 slots each that is full but
// for this pod: the device manager with its checkpoint on a tmpfs, the plugin, and the book, which is in a temporary folder. book-p99-ms
// is the book's part of it; the rest is the kubelet's own and the way there and back. What the machine does besides is in all of it.
func BenchmarkAllocate(b *testing.B) {
	for name, share := range map[string]int{"1-percent": 1, "25-percent": 25, "100-percent": 100} {
		b.Run(name, func(b *testing.B) {
			g := newGiven(b)
			g.shareAll()
			var mu sync.Mutex
			var inBook []time.Duration
			n := newNode(b, g.offers(), func(n *node, claims func(context.Context) slot.Kubelet) deviceplugin.Handler {
				return timed{g.handler(n, claims), &mu, &inBook}
			})
			what := spec{main: []v1.Container{container("main", shared, share)}}
			if got := len(g.offers()[shared]); got != 800 {
				b.Fatalf("%d shares; want 800", got)
			}
			var live []*pod
			next := func() time.Duration {
				p := n.newPod(what)
				if !g.assign(n, p.Pod) {
					b.Fatal("the pod does not fit")
				}
				begin := time.Now()
				err := n.admit(p)
				took := time.Since(begin)
				if err != nil {
					b.Fatal(err)
				}
				live = append(live, p)
				return took
			}
			// A hundred pods at most, as a kubelet has.
			for range min(100, 800/share) {
				next()
				if _, err := n.start(live[len(live)-1], "main"); err != nil {
					b.Fatal(err)
				}
			}
			var all []time.Duration
			for b.Loop() {
				b.StopTimer()
				n.delete(live[0])
				live = live[1:]
				g.clock.Step(slot.Grace / 4)
				g.notify()
				g.collect()
				b.StartTimer()
				all = append(all, next())
				b.StopTimer()
				if _, err := n.start(live[len(live)-1], "main"); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(percentile(all, 50), "p50-ms")
			b.ReportMetric(percentile(all, 99), "p99-ms")
			b.ReportMetric(percentile(inBook[len(inBook)-len(all):], 99), "book-p99-ms")
		})
	}
}
