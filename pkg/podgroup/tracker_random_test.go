package podgroup

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podspec"
)

// Whatever happens, in whatever order, the tracker knows what a fresh look at everything would say, and has told of every
// change.
func TestRandomEvents(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inWorld(t, nil, func(t *testing.T, w *world) {
				r := rand.New(rand.NewPCG(seed, 99))
				pods := map[types.NamespacedName]*v1.Pod{}
				groups := map[types.NamespacedName]*unstructured.Unstructured{}
				namespaces, groupNames := []string{"one", "two"}, []string{"a", "b", ""}
				uid := 0
				before := map[gang.Key]string{}
				stop := make(chan struct{})
				var readers sync.WaitGroup
				defer readers.Wait()
				defer close(stop)
				tick := time.NewTicker(time.Millisecond)
				defer tick.Stop()
				readers.Go(func() { // for the race detector, and for copies that are the caller's
					for {
						select {
						case <-stop:
							return
						case <-tick.C:
							for _, n := range namespaces {
								clear(w.tracker.Members(crdKey(n, "a")))
								_, _ = w.tracker.Spec(crdKey(n, "a"))
							}
						}
					}
				})
				for step := range 250 {
					namespace := namespaces[r.IntN(2)]
					at := types.NamespacedName{Namespace: namespace, Name: fmt.Sprintf("p-%d", r.IntN(12))}
					p := pods[at]
					switch op := r.IntN(10); {
					case op < 2: // a group comes, changes or goes
						at.Name = groupNames[r.IntN(2)]
						if g := groups[at]; g != nil && r.IntN(3) == 0 {
							w.delete(g)
							delete(groups, at)
						} else {
							groups[at] = group(at.Namespace, at.Name, "g", int64(step), int64(r.IntN(5)))
							w.set(groups[at])
						}
					case p == nil:
						uid++
						pods[at] = gangMember(at.Namespace, at.Name, fmt.Sprintf("u%d", uid), groupNames[r.IntN(3)], r.IntN(20))
						w.set(pods[at])
					case op < 4:
						w.delete(p)
						delete(pods, at)
					default:
						p = p.DeepCopy()
						switch op {
						case 4:
							p.Labels[podspec.LabelPodGroup] = groupNames[r.IntN(3)]
						case 5:
							p.Labels[keyCompletionIndex] = fmt.Sprint(r.IntN(20))
						case 6:
							p.Status.Phase = []v1.PodPhase{v1.PodRunning, v1.PodSucceeded, v1.PodFailed}[r.IntN(3)]
						case 7:
							p.DeletionTimestamp, p.Finalizers = new(metav1.Unix(5, 0)), []string{"x"}
						case 8:
							uid++
							p.UID = types.UID(fmt.Sprintf("u%d", uid)) // replaced while nobody watched
						case 9:
							p.Spec.NodeName = fmt.Sprint("n", step)
						}
						pods[at] = p
						w.set(p)
					}
					if p := pods[at]; p != nil && r.IntN(3) == 0 {
						w.tracker.Refresh(p)
					}
					if r.IntN(2) == 0 {
						continue // more at once
					}
					told := w.takeTold()
					for _, n := range namespaces {
						for _, g := range groupNames[:2] {
							k := crdKey(n, g)
							all, members := expected(pods, k)
							if diff := cmp.Diff(members, uids(w.tracker.Members(k)), cmpEmpty); diff != "" {
								t.Fatalf("step %d: members of %s: -want +got\n%s", step, k, diff)
							}
							if diff := cmp.Diff(all, uids(w.tracker.All(k)), cmpEmpty); diff != "" {
								t.Fatalf("step %d: all of %s: -want +got\n%s", step, k, diff)
							}
							s, err := w.tracker.Spec(k)
							state := fmt.Sprint(all, members, s, err)
							if state != before[k] && told[k] == 0 && before[k] != "" {
								t.Fatalf("step %d: %s changed from\n%s\nto\n%s\nand nobody was told", step, k, before[k], state)
							}
							before[k] = state
						}
					}
					if err := w.tracker.consistent(); err != nil {
						t.Fatalf("step %d: %v", step, err)
					}
				}
				for _, p := range pods {
					w.delete(p)
				}
				synctest.Wait()
				if len(w.tracker.byName)+len(w.tracker.gangs)+len(w.tracker.owed) != 0 {
					t.Errorf("with no pod left: %d pods, %d gangs, %d to tell", len(w.tracker.byName), len(w.tracker.gangs), len(w.tracker.owed))
				}
			})
		})
	}
}

// expected are the UIDs of the gang's pods and of its members, by looking at everything.
func expected(pods map[types.NamespacedName]*v1.Pod, k gang.Key) (all, members []string) {
	var list []*v1.Pod
	for _, p := range pods {
		if got, ok := KeyOf(p); ok && got == k {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, Compare)
	for _, p := range list {
		all = append(all, string(p.UID))
		if p.DeletionTimestamp == nil && p.Status.Phase != v1.PodSucceeded && p.Status.Phase != v1.PodFailed {
			members = append(members, string(p.UID))
		}
	}
	return all, members
}

// consistent checks the invariants of the index.
func (t *Tracker) consistent() error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	n := 0
	for k, list := range t.gangs {
		n += len(list)
		if len(list) == 0 {
			return fmt.Errorf("%s has an empty list", k)
		}
		for _, m := range list {
			if at := (types.NamespacedName{Namespace: m.pod.Namespace, Name: m.pod.Name}); t.byName[at] != m || m.key != k {
				return fmt.Errorf("%s is in %s and not known by its name", at, k)
			}
		}
	}
	if n != len(t.byName) {
		return fmt.Errorf("%d pods in gangs, %d by name", n, len(t.byName))
	}
	return nil
}

// tracked is a tracker of one gang, without an API server.
func tracked(b *testing.B, pods int) (*Tracker, cache.Indexer, []*v1.Pod) {
	b.Helper()
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	tracker, err := NewTracker(TrackerOptions{Pods: factory})
	if err != nil {
		b.Fatal(err)
	}
	store := factory.Core().V1().Pods().Informer().GetIndexer()
	list := make([]*v1.Pod, pods)
	for i := range list {
		list[i] = gangMember("team", fmt.Sprintf("train-%d-x7f2k", i), fmt.Sprintf("u%d", i), "train", i)
		if err := store.Add(list[i]); err != nil {
			b.Fatal(err)
		}
		tracker.Refresh(list[i])
	}
	return tracker, store, list
}

func BenchmarkMembersOf1000(b *testing.B) {
	tracker, _, _ := tracked(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		if len(tracker.Members(crdKey("team", "train"))) != 1000 {
			b.Fatal("not a thousand")
		}
	}
}

// A pod of a gang of a thousand changes its status.
func BenchmarkEventInAGangOf1000(b *testing.B) {
	tracker, store, list := tracked(b, 1000)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		p := *list[i%len(list)]
		i++
		if err := store.Update(&p); err != nil {
			b.Fatal(err)
		}
		tracker.podEvent(&p)
	}
}
