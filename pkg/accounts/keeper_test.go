package accounts

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/ledger/ledgertest"
)

const tick = int64(15)

// life is what really happened to a pod.
type life struct {
	bound, ran, ended int64
	// finished says that its status tells when its containers ended, before the object goes.
	finished bool
	gone     int64
	milliGPU int64
}

// world is the API server: what pods there are, and who watches.
type world struct {
	t     *testing.T
	store ledger.Store
	now   int64
	skew  int64 // of the keeper's clock
	pods  map[types.UID]*v1.Pod
	lives map[types.UID]life

	keeper *Keeper // nil while it is down
	seen   cache.Indexer
	// deaf says that the watch is broken: what happens now is found by the next relist.
	deaf   bool
	rng    *rand.Rand
	ticked int64 // when the last commit was
}

// start starts a keeper, which lists all pods.
func (w *world) start() {
	w.seen = cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	w.keeper = &Keeper{
		o: Options{
			Store: w.store, Tick: time.Duration(tick) * time.Second,
			Terms: func(p *v1.Pod) (t Terms, certain, holds bool) {
				n := w.lives[p.UID].milliGPU
				return Terms{Queue: "q", MilliGPU: n, Rate: n, ChargeStartup: true}, true, true
			},
		},
		clock:  &clock{wall: func() time.Time { return time.Unix(w.now+w.skew, 0) }, passed: func() time.Duration { return time.Duration(w.now) * time.Second }},
		lister: corelisters.NewPodLister(w.seen), notes: map[types.UID]note{}, refused: map[types.UID]bool{}, leads: true,
	}
	w.deaf = false
	w.keeper.clock.start()
	for _, p := range w.pods {
		w.seen.Add(p)
		w.keeper.note(p, Present)
	}
	if err := w.keeper.start(w.t.Context(), "test", 0); err != nil {
		w.t.Fatal(err)
	}
}

// tell has the keeper hear of a pod's state, sometimes twice.
func (w *world) tell(p *v1.Pod, there Presence) {
	if w.keeper == nil || w.deaf {
		return
	}
	if there == Present {
		w.seen.Add(p)
	} else {
		w.seen.Delete(p)
	}
	for range 1 + w.rng.IntN(2) {
		w.keeper.note(p, there)
	}
}

// relist mends a broken watch, as an informer does it.
func (w *world) relist() {
	w.deaf = false
	for _, obj := range w.seen.List() {
		if p := obj.(*v1.Pod); w.pods[p.UID] == nil {
			w.tell(p, Missed) // its last known state
		}
	}
	for _, p := range w.pods {
		w.tell(p, Present)
	}
}

func (w *world) tick() {
	if w.keeper == nil {
		return
	}
	if err := w.keeper.tick(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.ticked = w.now
}

// step lets a second pass.
func (w *world) step() {
	w.now++
	for uid, l := range w.lives {
		p := w.pods[uid]
		switch w.now {
		case l.bound:
			p = &v1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: string(uid), UID: uid}, Spec: v1.PodSpec{NodeName: "n"},
				Status: v1.PodStatus{Phase: v1.PodPending, Conditions: []v1.PodCondition{
					{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: at(w.now)},
				}},
			}
		case l.gone:
			delete(w.pods, uid)
			w.tell(p, Deleted)
			continue
		case l.ran:
			p = p.DeepCopy()
			p.Status.Phase, p.Status.ContainerStatuses = v1.PodRunning, []v1.ContainerStatus{running(w.now)}
		case l.ended:
			if !l.finished {
				continue
			}
			p = p.DeepCopy()
			p.Status.Phase, p.Status.ContainerStatuses = v1.PodSucceeded, []v1.ContainerStatus{terminated(l.ran, w.now)}
		default:
			continue
		}
		w.pods[uid] = p
		w.tell(p, Present)
	}
}

// TestTheLedgerIsTheTruth runs 10,000 random lives of pods past a keeper that is killed, whose watch breaks, whose events come twice and whose
// clock is set, and compares the ledger with what happened: exact for every pod of whose end anybody wrote down or saw the moment,
// within one tick, and marked, for the others.
func TestTheLedgerIsTheTruth(t *testing.T) {
	for name, dsn := range map[string]func(t *testing.T) string{
		"SQLite":     func(t *testing.T) string { return filepath.Join(t.TempDir(), "ledger.db") },
		"PostgreSQL": func(t *testing.T) string { return ledgertest.Postgres(t).Database() },
	} {
		t.Run(name, func(t *testing.T) {
			store, err := ledger.Open(t.Context(), dsn(t))
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			w := &world{t: t, store: store, now: 1_000_000, pods: map[types.UID]*v1.Pod{}, rng: rand.New(rand.NewPCG(7, 11))}
			all := map[types.UID]life{}
			const batches, each = 20, 500
			w.start()
			for b := range batches {
				w.lives = map[types.UID]life{}
				for i := range each {
					l := w.random()
					uid := types.UID(fmt.Sprintf("%02d-%03d", b, i))
					w.lives[uid], all[uid] = l, l
				}
				w.live()
			}
			w.check(t, all)
			before := segments(t, store)
			for range 2 { // what was recorded is recorded again
				w.start()
				w.keeper.Review()
				w.tick()
			}
			if diff := cmp.Diff(before, segments(t, store)); diff != "" {
				t.Errorf("running it again changed the ledger (-before +after):\n%s", diff)
			}
			if _, err := store.Verify(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
}

// random is a life that begins within the next minutes.
func (w *world) random() life {
	l := life{bound: w.now + 1 + w.rng.Int64N(120), milliGPU: 1 + w.rng.Int64N(8000)}
	l.ran = l.bound + 1 + w.rng.Int64N(20)
	l.ended = l.ran + 1 + w.rng.Int64N(200)
	l.finished = w.rng.IntN(3) > 0
	l.gone = l.ended
	if l.finished {
		l.gone = l.ended + 1 + w.rng.Int64N(60)
	}
	return l
}

// live lets the pods come and go, with everything that goes wrong.
func (w *world) live() {
	last := w.now
	for _, l := range w.lives {
		last = max(last, l.gone)
	}
	for end := last + 3*tick; w.now < end; {
		w.step()
		switch r := w.rng.IntN(1000); {
		case r < 20:
			w.keeper = nil // SIGKILL
			for range w.rng.Int64N(tick) {
				w.step()
			}
			w.start()
			w.tick()
		case r < 40 && w.now-w.ticked < tick/2:
			w.keeper = nil // before it committed what it heard
			w.start()
		case r < 60:
			w.deaf = true
			for range w.rng.Int64N(tick) {
				w.step()
				w.due()
			}
			w.relist()
		case r < 63:
			w.skew = w.rng.Int64N(7200) - 3600
			w.tick()
			w.skew = 0
		}
		w.due()
	}
}

// due commits when it is time.
func (w *world) due() {
	if w.now-w.ticked >= tick {
		w.tick()
	}
}

func segments(t *testing.T, store ledger.Store) (out []ledger.Segment) {
	t.Helper()
	for s, err := range store.Segments(t.Context(), ledger.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

func (w *world) check(t *testing.T, all map[types.UID]life) {
	t.Helper()
	got := map[types.UID][]ledger.Segment{}
	for _, s := range segments(t, w.store) {
		got[types.UID(s.PodUID)] = append(got[types.UID(s.PodUID)], s)
	}
	exact, estimated, failed := 0, 0, 0
	for _, uid := range slices.Sorted(func(yield func(types.UID) bool) {
		for uid := range all {
			if !yield(uid) {
				return
			}
		}
	}) {
		l, rows := all[uid], got[uid]
		// What came after the last commit before a kill and went before the next start has left no trace anywhere.
		if len(rows) == 0 && l.gone-l.bound <= 2*tick {
			estimated++
			continue
		}
		fail := func(what string) {
			if failed++; failed < 10 {
				t.Errorf("pod %s: %s\nlife %+v\nrows %+v", uid, what, l, rows)
			}
		}
		if len(rows) == 0 {
			fail("it is not in the ledger")
			continue
		}
		begin, sum := rows[0].Start, int64(0)
		for _, s := range rows {
			sum += s.MilliGPUSeconds()
		}
		last := rows[len(rows)-1]
		off := last.End - l.ended
		switch {
		case begin != l.bound:
			fail("it begins at another moment")
		case last.End == 0:
			fail("it is still open")
		case sum != l.milliGPU*(last.End-begin):
			fail("its segments do not add up")
		case last.Estimated && (off > tick || off < -tick):
			fail("the estimate is more than a tick off")
		case !last.Estimated && off != 0:
			fail("its end is wrong")
		case last.Estimated:
			estimated++
		default:
			exact++
		}
	}
	if failed > 0 {
		t.Errorf("%d pods are wrong", failed)
	}
	if estimated == 0 || exact == 0 {
		t.Errorf("%d exact and %d estimated: the test does not test both", exact, estimated)
	}
	t.Logf("%d exact, %d estimated", exact, estimated)
}
