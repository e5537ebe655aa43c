package queue

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
)

// many creates so many pods of one GPU, named by the queue and a number.
func (r *rig) many(n int, queue string, change ...func(*v1.Pod)) {
	r.t.Helper()
	for i := range n {
		r.create(pod(fmt.Sprint(queue, "-", i), queue, "", change...))
	}
}

// wantCounts checks how many pods of each name's beginning are bound.
func (r *rig) wantCounts(want map[string]int) {
	r.t.Helper()
	for prefix, n := range want {
		if got := r.count(prefix); got != n {
			r.t.Errorf("%d of %s are bound, want %d: %s", got, prefix, n, r.bound())
		}
	}
}

// evictions counts the pods that were deleted from now on.
func (r *rig) evictions() func() int {
	before := len(r.client.Actions())
	return func() (n int) {
		for _, a := range r.client.Actions()[before:] {
			if d, ok := a.(clienttesting.DeleteAction); ok && d.GetResource().Resource == "pods" {
				n++
			}
		}
		return n
	}
}

func TestAGuaranteeBelowALimitIsTakenBack(t *testing.T) {
	siblings := []runtime.Object{queue("org", gpus("8", "8")), queue("a", under("org"), gpus("4", "")), queue("b", under("org"), gpus("4", ""))}
	deep := []runtime.Object{
		queue("top", gpus("12", "12")), queue("org", under("top"), gpus("8", "8")), queue("team", under("org"), gpus("4", "")),
		queue("a", under("team"), gpus("4", "4")), queue("b", under("org"), gpus("4", "")), queue("c", under("top")),
	}
	outside := append([]runtime.Object{queue("d", gpus("4", ""))}, siblings...)
	for name, tc := range map[string]struct {
		nodes   []*v1.Node
		objects []runtime.Object
		before  map[string]int // pods of these queues
		create  func(r *rig)
		want    map[string]int
		evicted int
	}{
		"pods, where GPUs are idle": {
			nodes(node("n", 8), node("m", 8)), siblings,
			map[string]int{"b": 8},
			func(r *rig) { r.many(6, "a") },
			map[string]int{"a-": 4, "b-": 4},
			4,
		},
		"pods, where none are": {
			nodes(node("n", 8)), siblings,
			map[string]int{"b": 8},
			func(r *rig) { r.many(6, "a") },
			map[string]int{"a-": 4, "b-": 4},
			4,
		},
		"a gang": {
			nodes(node("n", 8), node("m", 8)), siblings,
			map[string]int{"b": 8},
			func(r *rig) { r.group("a", 4); r.create(gangOf("a", 4, "a", "")...) },
			map[string]int{"a-": 4, "b-": 4},
			4,
		},
		"no more than is missing": {
			nodes(node("n", 8), node("m", 8)), siblings,
			map[string]int{"b": 6},
			func(r *rig) { r.group("a", 4); r.create(gangOf("a", 4, "a", "")...) },
			map[string]int{"a-": 4, "b-": 4},
			2,
		},
		"the minimum of an elastic gang": {
			nodes(node("n", 8), node("m", 8)), siblings,
			map[string]int{"b": 8},
			func(r *rig) { r.group("a", 3); r.create(gangOf("a", 8, "a", "")...) },
			map[string]int{"a-": 3, "b-": 5},
			3,
		},
		"what is more than the guarantee is not": {
			nodes(node("n", 8), node("m", 8)), siblings,
			map[string]int{"b": 8},
			func(r *rig) { r.group("a", 5); r.create(gangOf("a", 5, "a", "")...) },
			map[string]int{"a-": 0, "b-": 8},
			0,
		},
		"below two limits": {
			nodes(node("n", 8), node("m", 8)), deep,
			map[string]int{"b": 8, "c": 4},
			func(r *rig) { r.many(6, "a") },
			map[string]int{"a-": 4, "b-": 4, "c-": 4},
			4,
		},
		"below the higher of two limits": {
			nodes(node("n", 8), node("m", 8)), deep,
			map[string]int{"b": 4, "c": 8},
			func(r *rig) { r.many(6, "a") },
			map[string]int{"a-": 4, "b-": 4, "c-": 4},
			4,
		},
		"the place is not lost to others": { // d waits for a place, and has no part in the limit
			nodes(node("n", 8)), outside,
			map[string]int{"b": 8},
			func(r *rig) { r.group("a", 4); r.create(gangOf("a", 4, "a", "")...); r.many(8, "d", priority(-1)) },
			map[string]int{"a-": 4},
			-1,
		},
		"nobody leaves for who has no place": {
			nodes(node("n", 8)), siblings,
			map[string]int{"b": 8},
			func(r *rig) {
				r.many(4, "a", func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"nowhere": "x"} })
			},
			map[string]int{"a-": 0, "b-": 8},
			0,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, tc.nodes, tc.objects, func(r *rig) {
				for q, n := range tc.before {
					r.many(n, q)
				}
				for q, n := range tc.before {
					r.wantCounts(map[string]int{q + "-": n})
				}
				evicted := r.evictions()
				tc.create(r)
				r.after(30 * time.Second)
				r.wantCounts(tc.want)
				if n := evicted(); n != tc.evicted && tc.evicted >= 0 {
					t.Errorf("%d pods left, want %d", n, tc.evicted)
				}
				bound := r.bound()
				r.after(5 * time.Minute)
				if tc.evicted >= 0 {
					r.wantBound(bound) // nobody takes anything back and forth
					r.neverUnschedulable()
				}
			})
		})
	}
}

func TestPriorityDecidesBelowTheLimitOfAQueue(t *testing.T) {
	never := func(p *v1.Pod) { p.Spec.PreemptionPolicy = new(v1.PreemptNever) }
	inBubble(t, nodes(node("n", 8)), []runtime.Object{queue("a", gpus("", "2")), queue("b")}, func(r *rig) {
		r.many(2, "b")
		r.create(pod("low", "a", ""), pod("mid", "a", "", priority(5)))
		r.wantBound("b-0 b-1 low mid")
		r.create(pod("polite", "a", "", priority(20), never))
		r.after(20 * time.Second)
		r.wantBound("b-0 b-1 low mid")
		r.create(pod("high", "a", "", priority(10)))
		r.after(20 * time.Second)
		r.wantBound("b-0 b-1 high mid")
		r.wantSaid("polite", "OverLimit")
		r.create(pod("equal", "a", "", priority(5)))
		r.after(time.Minute)
		r.wantBound("b-0 b-1 high mid")
		r.neverUnschedulable()
	})
}

// linger has pods stay that are deleted, being deleted; the function that it returns lets them go, and those of the future.
func (r *rig) linger() (let func()) {
	stay := true
	r.client.PrependReactor("delete", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !stay {
			return false, nil, nil
		}
		d := action.(clienttesting.DeleteAction)
		o, err := r.client.Tracker().Get(d.GetResource(), d.GetNamespace(), d.GetName())
		if err != nil {
			return true, nil, err
		}
		p := o.(*v1.Pod).DeepCopy()
		if p.DeletionTimestamp == nil {
			p.DeletionTimestamp = new(metav1.NewTime(time.Now().Add(30 * time.Second)))
		}
		return true, nil, r.client.Tracker().Update(d.GetResource(), p, d.GetNamespace())
	})
	return func() {
		r.mu.Lock()
		stay = false
		r.mu.Unlock()
		list, err := r.client.CoreV1().Pods("ns").List(r.t.Context(), metav1.ListOptions{})
		if err != nil {
			r.t.Fatal(err)
		}
		for _, p := range list.Items {
			if p.DeletionTimestamp != nil {
				r.delete(p.Name)
			}
		}
	}
}

// leaving are the names of the pods that are being deleted, sorted.
func (r *rig) leaving() string {
	r.t.Helper()
	list, err := r.client.CoreV1().Pods("ns").List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, p := range list.Items {
		if p.DeletionTimestamp != nil {
			out = append(out, p.Name)
		}
	}
	return strings.Join(out, " ")
}

func threeQueues() []runtime.Object {
	return []runtime.Object{
		queue("org", gpus("9", "9")), queue("a", under("org"), gpus("3", "")), queue("b", under("org"), gpus("3", "")),
		queue("c", under("org"), gpus("3", "")),
	}
}

func TestSeveralReclaimersBelowOneLimit(t *testing.T) {
	inBubble(t, nodes(node("n", 8), node("m", 8)), threeQueues(), func(r *rig) {
		r.many(9, "c")
		r.wantCounts(map[string]int{"c-": 9})
		let := r.linger()
		evicted := r.evictions()
		r.group("a", 3)
		r.group("b", 3)
		r.create(gangOf("a", 3, "a", "")...)
		r.create(gangOf("b", 3, "b", "")...)
		r.many(3, "c", func(p *v1.Pod) { p.Name += "-late" })
		r.after(10 * time.Second)
		if n := len(strings.Fields(r.leaving())); n != 6 {
			t.Errorf("%q leave, want six", r.leaving())
		}
		r.wantSaid("a-0", "OverLimit", "are leaving")
		let()
		r.after(10 * time.Second)
		r.wantCounts(map[string]int{"a-": 3, "b-": 3, "c-": 3})
		if n := evicted(); n != 6+6 { // each was asked for once, and let go once
			t.Errorf("%d deletions, want 12", n)
		}
		r.neverUnschedulable()
	})
}

func TestVictimsThatDoNotGo(t *testing.T) {
	inBubble(t, nodes(node("n", 8), node("m", 8)), threeQueues(), func(r *rig) {
		r.many(9, "c")
		r.wantCounts(map[string]int{"c-": 9})
		let := r.linger()
		r.many(1, "a")
		r.after(10 * time.Second)
		if n := len(strings.Fields(r.leaving())); n != 1 {
			t.Errorf("%q leave, want one", r.leaving())
		}
		// Others take its place when it is not expected to go any more; and never more than c has borrowed.
		r.after(30 * time.Minute)
		if n := len(strings.Fields(r.leaving())); n < 2 || n > 6 {
			t.Errorf("%q leave, want more than one, and no more than six", r.leaving())
		}
		let()
		r.after(10 * time.Second)
		r.wantCounts(map[string]int{"a-": 1})
		if n := r.count("c-"); n < 3 {
			t.Errorf("%d of c are left, want at least the guaranteed 3", n)
		}
		r.neverUnschedulable()
	})
}

func TestARestartWhileVictimsLeave(t *testing.T) {
	inBubble(t, nodes(node("n", 8), node("m", 8)), threeQueues(), func(r *rig) {
		r.many(9, "c")
		r.wantCounts(map[string]int{"c-": 9})
		let := r.linger()
		r.group("a", 3)
		r.create(gangOf("a", 3, "a", "")...)
		r.after(5 * time.Second)
		before := r.leaving()
		r.cancel()
		r.after(time.Second)
		r.start()
		r.many(3, "b")
		r.after(10 * time.Second)
		if n := len(strings.Fields(r.leaving())); len(strings.Fields(before)) != 3 || n != 6 {
			t.Errorf("%q left before the restart, want three; %q after it, want six", before, r.leaving())
		}
		let()
		r.after(10 * time.Second)
		r.wantCounts(map[string]int{"a-": 3, "b-": 3, "c-": 3})
		r.neverUnschedulable()
	})
}

func TestAQueueThatChangesWhileVictimsLeave(t *testing.T) {
	inBubble(t, nodes(node("n", 8), node("m", 8)), threeQueues(), func(r *rig) {
		r.many(9, "c")
		r.wantCounts(map[string]int{"c-": 9})
		let := r.linger()
		r.group("a", 3)
		r.create(gangOf("a", 3, "a", "")...)
		r.after(5 * time.Second)
		r.change(queue("a", under("org"), gpus("0", "2"))) // it never fits any more
		r.wantSaid("a-0", "NeverWithinLimit")
		let()
		r.after(time.Second)
		r.many(3, "b")
		r.after(time.Minute) // nothing is kept for a gang that cannot start
		r.wantCounts(map[string]int{"a-": 0, "b-": 3, "c-": 6})
		r.neverUnschedulable()
	})
}
