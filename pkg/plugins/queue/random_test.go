package queue

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"weft.sh/weft/pkg/podspec"
)

// history is what every pod had, by what the API server knew.
type history struct {
	r    *rig
	pods map[types.UID]*life
}

type life struct {
	queue          string
	gpus           int64
	start, end     int64 // end is 0 while it runs
	runtimeSeconds int64
}

// look notes what changed since the last time; nothing else may happen in between.
func (h *history) look() {
	h.r.t.Helper()
	list, err := h.r.client.CoreV1().Pods("ns").List(h.r.t.Context(), metav1.ListOptions{})
	if err != nil {
		h.r.t.Fatal(err)
	}
	there := map[types.UID]bool{}
	for i := range list.Items {
		p := &list.Items[i]
		there[p.UID] = true
		if p.Spec.NodeName == "" || h.pods[p.UID] != nil {
			continue
		}
		d, _, err := podspec.Runtime(p)
		if err != nil {
			h.r.t.Fatal(err)
		}
		ask := p.Spec.Containers[0].Resources.Limits[podspec.ResourceGPU]
		h.pods[p.UID] = &life{
			queue: p.Labels[podspec.LabelQueue], gpus: ask.Value(), start: p.Status.Conditions[0].LastTransitionTime.Unix(),
			runtimeSeconds: int64(d / time.Second),
		}
	}
	for uid, l := range h.pods {
		if !there[uid] && l.end == 0 {
			l.end = time.Now().Unix()
		}
	}
}

// running are those that have not ended.
func (h *history) running() (out []*life) {
	for _, l := range h.pods {
		if l.end == 0 {
			out = append(out, l)
		}
	}
	return out
}

// check holds all that was used, and all that may still be, against the budgets in GPU-minutes.
func (h *history) check(budgets map[string]int64, parents map[string]string) {
	h.r.t.Helper()
	sums := map[string]int64{}
	for _, l := range h.pods {
		seconds := l.runtimeSeconds
		if l.end != 0 {
			seconds = min(l.end-l.start, seconds) // one that runs longer than it said overdraws the budget
		}
		for q := l.queue; q != ""; q = parents[q] {
			sums[q] += seconds * l.gpus
		}
	}
	for q, minutes := range budgets {
		if sums[q] > minutes*60 {
			h.r.t.Fatalf("queue %s has used and held %d GPU-seconds of %d", q, sums[q], minutes*60)
		}
	}
}

// TestNothingEverStartsThatTheBudgetsDoNotCover: with gangs and pods that come and go, refused bindings and restarts of the scheduler,
// used and held never exceed the limit of any queue.
func TestNothingEverStartsThatTheBudgetsDoNotCover(t *testing.T) {
	budgets := map[string]int64{"org": 30, "a": 20, "b": 20}
	parents := map[string]string{"a": "org", "b": "org"}
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			all := []runtime.Object{queue("org", budget("0.5")), queue("a", under("org"), budget("0.3333")), queue("b", under("org"), budget("0.3333"))}
			inBubble(t, nodes(node("n", 8), node("m", 8), node("o", 8)), all, func(r *rig) {
				rnd := rand.New(rand.NewPCG(seed, 7))
				h := &history{r: r, pods: map[types.UID]*life{}}
				names := []string{}
				flaky := rnd.IntN(2) == 0
				r.refuse = func(name string) error {
					if flaky && len(name)%3 == 0 {
						return invalid(name)
					}
					return nil
				}
				for step := range 60 {
					q, runtime := []string{"a", "b"}[rnd.IntN(2)], fmt.Sprint(10+rnd.IntN(180), "s")
					switch rnd.IntN(6) {
					case 0, 1:
						name := fmt.Sprint("p", step)
						r.create(pod(name, q, runtime, asking(1+rnd.Int64N(4))))
						names = append(names, name)
					case 2:
						name, size := fmt.Sprint("g", step), 2+rnd.IntN(4)
						r.group(name, int64(size))
						for _, p := range gangOf(name, size, q, runtime) {
							r.create(p)
							names = append(names, p.Name)
						}
					case 3, 4:
						if len(names) > 0 {
							i := rnd.IntN(len(names))
							r.delete(names[i])
							h.look()
							names = append(names[:i], names[i+1:]...)
						}
					case 5:
						if len(h.running()) == len(h.pods) { // of what ended and is gone only the ledger would know
							r.cancel()
							r.after(time.Second)
							r.start()
						}
					}
					r.after(time.Duration(rnd.IntN(5000)) * time.Millisecond)
					h.look()
					h.check(budgets, parents)
				}
				if len(h.pods) < 10 {
					t.Errorf("only %d pods ever started", len(h.pods))
				}
			})
		})
	}
}

// TestAPodThatEndedWhileNobodyLookedCounts: a scheduler that starts reads pods that ended, which its informer does not show.
func TestAPodThatEndedWhileNobodyLookedCounts(t *testing.T) {
	inBubble(t, nodes(node("n", 8)), []runtime.Object{queue("team", budget("1"))}, func(r *rig) {
		r.create(pod("a", "team", "1h"))
		r.wantBound("a")
		r.after(30 * time.Minute)
		r.cancel()
		r.after(time.Second)
		p, err := r.client.CoreV1().Pods("ns").Get(t.Context(), "a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p.Status.Phase = v1.PodSucceeded
		p.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "main", State: v1.ContainerState{
			Terminated: &v1.ContainerStateTerminated{StartedAt: p.CreationTimestamp, FinishedAt: metav1.Now()},
		}}}
		if _, err := r.client.CoreV1().Pods("ns").UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		r.start()
		r.create(pod("b", "team", "40m"))
		r.wantSaid("b", "OverBudget", "held 0.5")
		r.create(pod("c", "team", "29m"))
		r.wantBound("a c")
	})
}
