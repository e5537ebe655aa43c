package handout

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/slot"
)

// ledger is what containers that run have, told from what they found in their environment.
type ledger struct {
	mu   sync.Mutex
	inv  cluster.Inventory
	pods map[string]map[string]string // by UID and container
}

// begin notes a container that starts, and errs when a GPU has then been given twice.
func (l *ledger) begin(uid, container, gpus string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pods[uid] == nil {
		l.pods[uid] = map[string]string{}
	}
	l.pods[uid][container] = gpus
	var pods []cluster.Pod
	for uid, containers := range l.pods {
		var parts []string
		for name, gpus := range containers {
			parts = append(parts, name+"="+gpus)
		}
		slices.Sort(parts)
		slices.Reverse(parts) // init containers, with their ~, come first
		a, err := gpu.ParseAssignment(strings.Join(parts, ";"))
		if err != nil {
			return err
		}
		pods = append(pods, cluster.NewPod(uid, uid, a))
	}
	for _, p := range pods {
		others := slices.DeleteFunc(slices.Clone(pods), func(o cluster.Pod) bool { return o.UID == p.UID })
		if err := cluster.NewNode("node-a", l.inv, others).CanGive(p); err != nil {
			return fmt.Errorf("given twice: %w", err)
		}
	}
	return nil
}

func (l *ledger) end(uid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.pods, uid)
}

// randomAssignment is valid for itself. What it names may well be held, for this scheduler is a bad one.
func randomAssignment(r *rand.Rand) string {
	grant := func() string {
		switch n := r.IntN(4); r.IntN(4) {
		case 0:
			return fmt.Sprintf("GPU-%d", n)
		case 1:
			return fmt.Sprintf("GPU-M:1g.10gb@%d:1", r.IntN(7))
		case 2:
			return fmt.Sprintf("GPU-M:3g.40gb@%d:4", 4*r.IntN(2))
		default:
			return fmt.Sprintf("GPU-%d:%dm/1000Mi", n, 100*(1+r.IntN(6)))
		}
	}
	for {
		names := []string{"a=", "~i=", "b="}[:1+r.IntN(3)]
		if len(names) > 1 { // init containers come first
			names[0], names[1] = "~i=", "a="
		}
		for i := range names {
			names[i] += grant()
		}
		text := strings.Join(names, ";")
		if _, err := gpu.ParseAssignment(text); err == nil {
			return text
		}
	}
}

// Pods come and go on eight threads, with a scheduler that gives the same GPUs to several, an agent that collects all the time, and
// pods that are deleted by force. What runs never has more than there is.
func TestConcurrently(t *testing.T) {
	const threads, podsEach = 8, 15
	inWorld(t, func(t *testing.T, w *world) {
		l := &ledger{inv: w.options().Inventory(), pods: map[string]map[string]string{}}
		var mu sync.Mutex
		started, refused := 0, 0
		var all, collector sync.WaitGroup
		stop := make(chan struct{})
		collector.Go(func() {
			for {
				if _, err := w.h.Collect(quiet); err != nil {
					t.Error(err)
				}
				select {
				case <-time.After(700 * time.Millisecond):
				case <-stop:
					return
				}
			}
		})
		for thread := range threads {
			all.Go(func() {
				r := rand.New(rand.NewPCG(uint64(thread), 7))
				for n := range podsEach {
					uid := fmt.Sprintf("pod-%d-%d", thread, n)
					p := podOf(uid, uid, randomAssignment(r))
					w.api.set(p)
					if err := w.kubelet.admit(w.h, p, p.Assignment); err != nil {
						t.Error(err)
						return
					}
					for _, c := range p.Assignment.Containers {
						gpus, err := w.start(uid, c.Container)
						switch {
						case errors.Is(err, slot.ErrHeld):
							mu.Lock()
							refused++
							mu.Unlock()
							continue
						case err != nil:
							t.Errorf("%s: %v", uid, err)
							continue
						}
						var want []string
						for _, g := range c.Grants {
							want = append(want, g.String())
						}
						if gpus != strings.Join(want, ",") {
							t.Errorf("%s: container %s has %s, want %s", uid, c.Container, gpus, want)
						}
						name := c.Container
						if c.Init {
							name = "~" + name
						}
						if err := l.begin(uid, name, gpus); err != nil {
							t.Errorf("%s: %v", uid, err)
						}
						if err := w.check(); err != nil {
							t.Error(err)
						}
						mu.Lock()
						started++
						mu.Unlock()
						time.Sleep(time.Duration(r.IntN(4000)) * time.Millisecond)
					}
					l.end(uid) // its containers have ended; now everybody hears of it
					if r.IntN(4) == 0 {
						w.api.remove(uid)
						w.kubelet.end(uid)
					} else {
						w.over(uid)
					}
				}
			})
		}
		all.Wait()
		close(stop)
		collector.Wait()
		if started < threads*podsEach/4 || refused < 10 {
			t.Errorf("%d containers have started, %d were refused: that shows nothing", started, refused)
		}
		t.Logf("%d containers have started, %d were refused; the kubelet was asked %d times", started, refused, w.kubelet.asks)
		if err := w.clean(); err != nil {
			t.Error(err)
		}
	})
}

// BenchmarkAllocate has a node of 8 GPUs that 100 containers hold shares of, and the file system of the temporary folder.
func BenchmarkAllocate(b *testing.B) {
	w := newWorld(b, b.TempDir())
	for i := range 100 {
		p := podOf(fmt.Sprint("uid-", i), fmt.Sprint("pod-", i), fmt.Sprintf("main=GPU-%d:40m/100Mi", i%4))
		w.api.set(p)
		if err := w.kubelet.admit(w.h, p, p.Assignment); err != nil {
			b.Fatal(err)
		}
		w.h.mu.Lock() // bound without waiting for room
		claim := w.kubelet.of(p.UID, "main")[0]
		holder, err := slot.Book{}.Decide("node-a", w.options().Inventory(), p, "main", claim.Resource, len(claim.Slots), time.Now())
		w.h.book = w.h.book.Bind(claim.Name, holder)
		w.h.mu.Unlock()
		if err != nil {
			b.Fatal(err)
		}
	}
	full := w.h.Book()
	slots := make([]string, 8)
	for i := range slots {
		slots[i] = slot.Resource{Kind: gpu.Shared}.Slot(i)
	}
	var times []time.Duration
	for b.Loop() {
		w.h.book = full
		start := time.Now()
		if _, err := w.h.Allocate(quiet, slot.Resource{Kind: gpu.Shared}, slots); err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "p99-µs")
}
