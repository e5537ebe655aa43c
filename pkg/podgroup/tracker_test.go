package podgroup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podspec"
)

var (
	podResource    = v1.SchemeGroupVersion.WithResource("pods")
	nativeResource = schedulingv1beta1.SchemeGroupVersion.WithResource("podgroups")
)

// world is an API server with a tracker that follows it.
type world struct {
	t       *testing.T
	client  *fake.Clientset
	dynamic *dynamicfake.FakeDynamicClient
	tracker *Tracker

	// refusal is what a list of PodGroups is answered with; nil for a list.
	refusal atomic.Pointer[error]

	// mu is held by whoever lists or watches pods.
	mu sync.Mutex
	// watches are all that were ever opened of pods.
	watches []watch.Interface
	// expired makes the next watch an error: the informer must list anew.
	expired bool

	toldMu sync.Mutex
	told   map[gang.Key]int
}

// inWorld runs f in a bubble of synctest, with the informers started. refusal is what the API server says of PodGroups at
// first; nil when it serves them.
func inWorld(t *testing.T, refusal error, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, client: fake.NewClientset(), told: map[gang.Key]int{},
			dynamic: dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
				map[schema.GroupVersionResource]string{Resource: "PodGroupList"}),
		}
		w.refusal.Store(&refusal)
		w.dynamic.PrependReactor("list", "podgroups", func(clienttesting.Action) (bool, runtime.Object, error) {
			err := *w.refusal.Load()
			return err != nil, nil, err
		})
		w.client.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return false, nil, nil // the next reactor answers
		})
		w.client.PrependWatchReactor("pods", func(a clienttesting.Action) (bool, watch.Interface, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.expired {
				w.expired = false
				return true, nil, apierrors.NewResourceExpired("too old")
			}
			real, err := w.client.Tracker().Watch(a.GetResource(), a.GetNamespace())
			w.watches = append(w.watches, real)
			return true, real, err
		})
		factory := informers.NewSharedInformerFactory(w.client, 0)
		tracker, err := NewTracker(TrackerOptions{Pods: factory, CRD: w.dynamic, Native: true})
		if err != nil {
			t.Fatal(err)
		}
		w.tracker = tracker
		tracker.OnChange(func(k gang.Key) {
			w.toldMu.Lock()
			defer w.toldMu.Unlock()
			w.told[k]++
		})
		ctx, cancel := context.WithCancel(context.Background())
		factory.Start(ctx.Done())
		defer factory.Shutdown()
		defer synctest.Wait() // the tracker's own informer ends
		defer cancel()
		tracker.Start(ctx)
		if err := tracker.WaitForSync(ctx); err != nil {
			t.Fatal(err)
		}
		f(t, w)
	})
}

// takeTold is how often OnChange told of each gang since the last call, when there is nothing left to tell.
func (w *world) takeTold() map[gang.Key]int {
	synctest.Wait()
	w.toldMu.Lock()
	defer w.toldMu.Unlock()
	told := w.told
	w.told = map[gang.Key]int{}
	return told
}

// object is the object as the API server it belongs to holds it.
func (w *world) object(obj metav1.Object) (clienttesting.ObjectTracker, schema.GroupVersionResource, runtime.Object) {
	switch o := obj.(type) {
	case *v1.Pod:
		return w.client.Tracker(), podResource, o.DeepCopy()
	case *schedulingv1beta1.PodGroup:
		return w.client.Tracker(), nativeResource, o.DeepCopy()
	case *unstructured.Unstructured:
		return w.dynamic.Tracker(), Resource, o.DeepCopy()
	}
	w.t.Fatalf("a %T", obj)
	return nil, schema.GroupVersionResource{}, nil
}

// set creates or replaces an object.
func (w *world) set(obj metav1.Object) {
	w.t.Helper()
	tracker, gvr, object := w.object(obj)
	if err := tracker.Update(gvr, object, obj.GetNamespace()); err != nil {
		if err := tracker.Create(gvr, object, obj.GetNamespace()); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) delete(obj metav1.Object) {
	w.t.Helper()
	tracker, gvr, _ := w.object(obj)
	if err := tracker.Delete(gvr, obj.GetNamespace(), obj.GetName()); err != nil {
		w.t.Fatal(err)
	}
}

// want compares the members of a gang with what they should be when the informers have nothing left to do.
func (w *world) want(k gang.Key, members ...string) {
	w.t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(members, uids(w.tracker.Members(k)), cmpEmpty); diff != "" {
		w.t.Errorf("%s: -want +got\n%s", k, diff)
	}
}

var cmpEmpty = cmp.Transformer("empty", func(s []string) string { return strings.Join(s, " ") })

func uids(pods []*v1.Pod) []string {
	var out []string
	for _, p := range pods {
		out = append(out, string(p.UID))
	}
	return out
}

func crdKey(namespace, name string) gang.Key {
	return gang.Key{Source: gang.SourceCRD, Namespace: namespace, Name: name}
}

// member is a pod of the gang, with an index.
func gangMember(namespace, name, uid, group string, index int) *v1.Pod {
	p := labelled(name, podspec.LabelPodGroup, group, keyCompletionIndex, fmt.Sprint(index))
	p.Namespace, p.UID = namespace, types.UID(uid)
	return p
}

// group is a PodGroup of the custom kind.
func group(namespace, name, uid string, generation, minMember int64) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"minMember": minMember}}}
	u.SetAPIVersion(Resource.GroupVersion().String())
	u.SetKind("PodGroup")
	u.SetNamespace(namespace)
	u.SetName(name)
	u.SetUID(types.UID(uid))
	u.SetGeneration(generation)
	return u
}

func TestTheLifeOfAGang(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		a := crdKey("team", "a")
		// Its pods come before it does, in any order.
		w.set(gangMember("team", "p-2", "u2", "a", 2))
		w.set(gangMember("team", "p-0", "u0", "a", 0))
		w.want(a, "u0", "u2")
		if _, err := w.tracker.Spec(a); !errors.Is(err, ErrNotFound) || err.Error() != "podgroup team/a: no PodGroup of this name in this namespace" {
			t.Errorf("before it exists: %v", err)
		}
		w.set(group("team", "a", "g1", 1, 3))
		w.set(gangMember("team", "p-1", "u1", "a", 1))
		w.want(a, "u0", "u1", "u2")
		if s, err := w.tracker.Spec(a); err != nil || s.Min != 3 || s.UID != "g1" || s.Key != a {
			t.Errorf("%+v, %v", s, err)
		}
		// One ends, one is being deleted.
		ended := gangMember("team", "p-1", "u1", "a", 1)
		ended.Status.Phase = v1.PodSucceeded
		w.set(ended)
		leaving := gangMember("team", "p-2", "u2", "a", 2)
		leaving.DeletionTimestamp, leaving.Finalizers = new(metav1.Unix(5, 0)), []string{"x"}
		w.set(leaving)
		w.want(a, "u0")
		if diff := cmp.Diff([]string{"u0", "u1", "u2"}, uids(w.tracker.All(a))); diff != "" {
			t.Errorf("all: -want +got\n%s", diff)
		}
		// The Job makes it again.
		w.delete(leaving)
		w.set(gangMember("team", "p-2", "u3", "a", 2))
		w.want(a, "u0", "u3")
		// The group is changed, deleted, and made anew with its pods left.
		w.set(group("team", "a", "g1", 2, 0))
		synctest.Wait()
		_, err := w.tracker.Spec(a)
		var invalid *podspec.InvalidError
		if !errors.As(err, &invalid) || err.Error() != `podgroup team/a: spec.minMember is "0": want a whole number of at least 1` {
			t.Errorf("%v", err)
		}
		w.delete(group("team", "a", "", 0, 0))
		w.want(a, "u0", "u3")
		if _, err := w.tracker.Spec(a); !errors.Is(err, ErrNotFound) {
			t.Errorf("deleted: %v", err)
		}
		w.set(group("team", "a", "g2", 1, 2))
		synctest.Wait()
		if s, err := w.tracker.Spec(a); err != nil || s.UID != "g2" || s.Min != 2 {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

func TestGroupsOfOneNameInTwoNamespacesAndOfTwoKinds(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		native := gang.Key{Source: gang.SourceNative, Namespace: "one", Name: "a"}
		w.set(gangMember("one", "p", "u1", "a", 0))
		w.set(gangMember("two", "p", "u2", "a", 0))
		n := gangMember("one", "n", "u3", "a", 0)
		n.Spec.SchedulingGroup = &v1.PodSchedulingGroup{PodGroupName: new("a")}
		w.set(n)
		w.set(group("one", "a", "g1", 1, 1))
		w.set(group("two", "a", "g2", 1, 2))
		pg := &schedulingv1beta1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "one", Name: "a", UID: "g3"}}
		pg.Spec.SchedulingPolicy.Gang = &schedulingv1beta1.GangSchedulingPolicy{MinCount: 3}
		w.set(pg)
		w.want(crdKey("one", "a"), "u1")
		w.want(crdKey("two", "a"), "u2")
		w.want(native, "u3")
		for i, k := range []gang.Key{crdKey("one", "a"), crdKey("two", "a"), native} {
			if s, err := w.tracker.Spec(k); err != nil || s.Min != i+1 || s.UID != fmt.Sprintf("g%d", i+1) {
				t.Errorf("%+v: %+v, %v", k, s, err)
			}
		}
		w.delete(pg)
		pg = pg.DeepCopy()
		pg.Spec.SchedulingPolicy = schedulingv1beta1.PodGroupSchedulingPolicy{Basic: &schedulingv1beta1.BasicSchedulingPolicy{}}
		w.set(pg)
		synctest.Wait()
		if _, err := w.tracker.Spec(native); !errors.Is(err, ErrNotGang) {
			t.Errorf("with the basic policy: %v", err)
		}
	})
}

func TestAPodThatChangesItsGang(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		a, b := crdKey("team", "a"), crdKey("team", "b")
		p := gangMember("team", "p", "u1", "a", 0)
		p.Spec.NodeName = "n1"
		w.set(p)
		w.set(gangMember("team", "q", "u2", "a", 1))
		w.want(a, "u1", "u2")
		w.takeTold()
		moved := p.DeepCopy()
		moved.Labels[podspec.LabelPodGroup] = "b"
		w.set(moved)
		w.want(a, "u2")
		w.want(b, "u1")
		if diff := cmp.Diff(map[gang.Key]int{a: 1, b: 1}, w.takeTold()); diff != "" {
			t.Errorf("told: -want +got\n%s", diff)
		}
		none := moved.DeepCopy()
		delete(none.Labels, podspec.LabelPodGroup)
		w.set(none)
		w.want(b)
		w.set(p)
		w.want(a, "u1", "u2")
		// Another rank is another place.
		last := p.DeepCopy()
		last.Labels[keyCompletionIndex] = "7"
		w.set(last)
		w.want(a, "u2", "u1")
	})
}

// The watch breaks, a pod is replaced and another goes, and the informer lists anew: to the handler that is one update and a
// tombstone.
func TestPodsReplacedWhileNobodyWatched(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		a := crdKey("team", "a")
		p, gone := gangMember("team", "p", "u1", "a", 0), gangMember("team", "gone", "u2", "a", 1)
		w.set(p)
		w.set(gone)
		w.want(a, "u1", "u2")
		w.mu.Lock() // the informer cannot list again before all is done
		broken := len(w.watches)
		w.expired = true
		for _, open := range w.watches {
			open.Stop()
		}
		w.delete(p)
		w.set(gangMember("team", "p", "u3", "a", 0))
		w.delete(gone)
		w.mu.Unlock()
		opened := func() int {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.watches)
		}
		for waited := 0; opened() == broken; waited++ {
			if waited > 1000 {
				t.Fatal("the informer never watched again")
			}
			<-time.After(time.Second) // by the clock of the bubble: the backoff of the informer passes
		}
		w.want(a, "u3")
	})
}

func TestLateEventsNeverBringBackAnOldState(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		a := crdKey("team", "a")
		first, second := gangMember("team", "p", "u1", "a", 0), gangMember("team", "p", "u2", "a", 0)
		w.set(first)
		synctest.Wait()
		w.delete(first)
		w.set(second)
		w.want(a, "u2")
		w.takeTold()
		for _, late := range []any{first, cache.DeletedFinalStateUnknown{Key: "team/p", Obj: first}, cache.DeletedFinalStateUnknown{Key: "team/p"}, nil, &v1.Node{}} {
			w.tracker.Refresh(late)
			w.tracker.podEvent(late)
			w.want(a, "u2")
		}
		if told := w.takeTold(); len(told) != 0 {
			t.Errorf("nothing changed, told of %v", told)
		}
	})
}

// A hint refreshes before the informer's own goroutine comes to the event. It may hold locks that those who want to be told
// also take, so they are told by the event.
func TestRefreshIsAheadOfTheEventThatTells(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		a, b := crdKey("team", "a"), crdKey("team", "b")
		enter, leave := make(chan struct{}), make(chan struct{})
		once := sync.OnceFunc(func() { close(enter); <-leave })
		w.tracker.OnChange(func(gang.Key) { once() })
		w.set(gangMember("team", "p", "u1", "a", 0))
		<-enter // the goroutine of the informer is held here
		q := gangMember("team", "q", "u2", "b", 0)
		w.set(q)
		synctest.Wait()
		if got := w.tracker.Members(b); len(got) != 0 {
			t.Fatalf("%v: the event was not held", uids(got))
		}
		w.tracker.Refresh(q)
		if got := uids(w.tracker.Members(b)); len(got) != 1 {
			t.Errorf("after Refresh: %v", got)
		}
		w.toldMu.Lock()
		if w.told[b] != 0 {
			t.Error("Refresh told")
		}
		w.toldMu.Unlock()
		close(leave)
		if told := w.takeTold(); told[b] != 1 || told[a] != 1 {
			t.Errorf("told %v: want each once", told)
		}
	})
}

func TestWhatIsTold(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		a := crdKey("team", "a")
		told := func(what string, want int) {
			t.Helper()
			if got := w.takeTold(); got[a] != want || len(got) > 1 {
				t.Errorf("%s: told %v, want %d of %v", what, got, want, a)
			}
		}
		g := group("team", "a", "g1", 1, 3)
		w.set(g)
		told("a group comes", 1)
		status := g.DeepCopy()
		status.Object["status"] = map[string]any{"phase": "Running"}
		w.set(status)
		told("its status changes", 0)
		w.set(group("team", "a", "g1", 2, 2))
		told("its minimum changes", 1)
		annotated := group("team", "a", "g1", 2, 2)
		annotated.SetAnnotations(map[string]string{podspec.AnnotationOnMemberLost: "restart"})
		w.set(annotated)
		told("its annotations change", 1)
		w.set(group("team", "a", "g2", 2, 2))
		told("another of its name", 1)
		w.delete(g)
		told("it goes", 1)
		p := gangMember("team", "p", "u1", "a", 0)
		w.set(p)
		told("a pod comes", 1)
		p.Status.Phase = v1.PodRunning
		w.set(p)
		told("it runs", 1)
		w.delete(p)
		told("it goes", 1)
		lone := labelled("lone")
		w.set(lone)
		lone.Status.Phase = v1.PodRunning
		w.set(lone)
		told("a pod of no gang", 0)
	})
}

func TestAKindThatIsServedLater(t *testing.T) {
	for name, refusal := range map[string]error{
		"not defined yet":  &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: 404, Reason: metav1.StatusReasonNotFound}},
		"no right to read": apierrors.NewForbidden(Resource.GroupResource(), "", errors.New("no such role")),
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, refusal, func(t *testing.T, w *world) { // WaitForSync returned
				a := crdKey("team", "a")
				w.set(group("team", "a", "g1", 1, 3))
				w.set(gangMember("team", "p", "u1", "a", 0))
				w.want(a, "u1")
				const want = "podgroup team/a: no PodGroup of this name in this namespace: the API server does not serve PodGroups of scheduling.x-k8s.io"
				if _, err := w.tracker.Spec(a); !errors.Is(err, ErrNotFound) || err.Error() != want {
					t.Errorf("%v: want\n%s", err, want)
				}
				var served error
				w.refusal.Store(&served)
				<-time.After(probeInterval + time.Second)
				synctest.Wait()
				if s, err := w.tracker.Spec(a); err != nil || s.Min != 3 {
					t.Errorf("once served: %+v, %v", s, err)
				}
			})
		})
	}
}

// While the API server gives no answer, nobody knows whether there are PodGroups: the tracker waits.
func TestAnAnswerIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{Resource: "PodGroupList"})
		var answers atomic.Bool
		client.PrependReactor("list", "podgroups", func(clienttesting.Action) (bool, runtime.Object, error) {
			return !answers.Load(), nil, errors.New("connection refused")
		})
		factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
		tracker, err := NewTracker(TrackerOptions{Pods: factory, CRD: client})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		factory.Start(ctx.Done())
		defer factory.Shutdown()
		defer synctest.Wait()
		defer cancel()
		tracker.Start(ctx)
		short, stop := context.WithTimeout(ctx, time.Minute)
		defer stop()
		if err := tracker.WaitForSync(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without an answer: %v", err)
		}
		answers.Store(true)
		if err := tracker.WaitForSync(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestWithoutAnyKindOfPodGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		factory := informers.NewSharedInformerFactory(fake.NewClientset(gangMember("team", "p", "u1", "a", 0)), 0)
		tracker, err := NewTracker(TrackerOptions{Pods: factory})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		factory.Start(ctx.Done())
		defer factory.Shutdown()
		defer cancel()
		tracker.Start(ctx)
		if err := tracker.WaitForSync(ctx); err != nil {
			t.Fatal(err)
		}
		if got := uids(tracker.Members(crdKey("team", "a"))); len(got) != 1 {
			t.Errorf("members %v", got)
		}
		for _, k := range []gang.Key{crdKey("team", "a"), {Source: gang.SourceNative, Namespace: "team", Name: "a"}} {
			if _, err := tracker.Spec(k); !errors.Is(err, ErrNotFound) {
				t.Errorf("%+v: %v", k, err)
			}
		}
	})
}

func TestAnObjectThatIsNoPodGroup(t *testing.T) {
	inWorld(t, nil, func(t *testing.T, w *world) {
		bad := group("team", "bad", "g1", 1, 1)
		bad.Object["spec"] = map[string]any{"minMember": "three"}
		w.set(bad)
		w.set(group("team", "good", "g2", 1, 1))
		synctest.Wait()
		_, err := w.tracker.Spec(crdKey("team", "bad"))
		wantError(t, err, `podgroup team/bad is "an object with fields of other types": want a PodGroup of scheduling.x-k8s.io/v1alpha1`)
		if _, err := w.tracker.Spec(crdKey("team", "good")); err != nil {
			t.Errorf("the other: %v", err)
		}
	})
}
