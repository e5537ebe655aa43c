package inventory

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	weftcache "weft.sh/weft/pkg/cache"
	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
)

// world is an API server with a tracker that follows it.
type world struct {
	t       *testing.T
	client  *fake.Clientset
	cache   *weftcache.Cache
	tracker *Tracker

	// mu is held by whoever lists or watches pods.
	mu sync.Mutex
	// watches are all that were ever opened of pods.
	watches []watch.Interface
	// expired makes the next watch an error: the informer must list anew.
	expired bool
}

// inWorld runs f in a bubble of synctest, with the informers started.
func inWorld(t *testing.T, withSlices bool, f func(t *testing.T, w *world), objects ...runtime.Object) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, client: fake.NewClientset(objects...), cache: weftcache.New()}
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
		tracker, err := NewTracker(factory, w.cache, withSlices)
		if err != nil {
			t.Fatal(err)
		}
		w.tracker = tracker
		ctx, cancel := context.WithCancel(context.Background())
		factory.Start(ctx.Done())
		defer factory.Shutdown()
		defer cancel()
		if err := tracker.WaitForSync(ctx); err != nil {
			t.Fatal(err)
		}
		f(t, w)
	})
}

var (
	podResource   = v1.SchemeGroupVersion.WithResource("pods")
	nodeResource  = v1.SchemeGroupVersion.WithResource("nodes")
	sliceResource = resourceapi.SchemeGroupVersion.WithResource("resourceslices")
)

// set creates or replaces an object.
func (w *world) set(obj metav1.Object) {
	w.t.Helper()
	gvr := podResource
	switch obj.(type) {
	case *v1.Node:
		gvr = nodeResource
	case *resourceapi.ResourceSlice:
		gvr = sliceResource
	}
	tracker := w.client.Tracker()
	object := obj.(runtime.Object).DeepCopyObject()
	err := tracker.Update(gvr, object, obj.GetNamespace())
	if err != nil {
		err = tracker.Create(gvr, object, obj.GetNamespace())
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) delete(obj metav1.Object) {
	w.t.Helper()
	gvr := podResource
	switch obj.(type) {
	case *v1.Node:
		gvr = nodeResource
	case *resourceapi.ResourceSlice:
		gvr = sliceResource
	}
	if err := w.client.Tracker().Delete(gvr, obj.GetNamespace(), obj.GetName()); err != nil {
		w.t.Fatal(err)
	}
}

// want compares the cache with what it should be when the informers have nothing left to do.
func (w *world) want(lines ...string) {
	w.t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(lines, show(w.cache.Nodes())); diff != "" {
		w.t.Errorf("-want +got\n%s", diff)
	}
}

// show has a line for each node: its GPUs with what is left of them, what is withheld, and its pods.
func show(nodes []*cluster.Node) []string {
	var out []string
	for _, n := range nodes {
		var line strings.Builder
		line.WriteString(n.Name + ":")
		for i := range n.GPUs {
			g := &n.GPUs[i]
			fmt.Fprintf(&line, " %s %d", g.ID, g.FreeMilliGPU)
			if g.MIG {
				fmt.Fprintf(&line, " of %d places", len(g.Instances))
			}
		}
		if n.Withheld.GPUs+len(n.Withheld.Profiles) > 0 {
			fmt.Fprintf(&line, "; withheld %d %v", n.Withheld.GPUs, n.Withheld.Profiles)
		}
		for _, p := range n.Pods {
			fmt.Fprintf(&line, "; %s of %s holds %q", p.UID, p.Name, p.Assignment)
		}
		if len(n.Inventory.Problems) > 0 {
			fmt.Fprintf(&line, "; %q", n.Inventory.Problems)
		}
		out = append(out, line.String())
	}
	return out
}

func node(name string) *v1.Node { return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }

// sliceOf is the slice of a node with the devices.
func sliceOf(node string, generation int64, devices ...gpu.Device) *resourceapi.ResourceSlice {
	return Slices(node, devices, generation)[0]
}

// pod asks for one GPU and is on the node, if any, with the assignment, if any.
func pod(name, uid, node, assignment string) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(uid), Annotations: map[string]string{}},
		Spec: v1.PodSpec{NodeName: node, Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{
			Limits: v1.ResourceList{podspec.ResourceGPU: resource.MustParse("1")},
		}}}},
	}
	if assignment != "" {
		p.Annotations[podspec.AnnotationGPUs] = assignment
	}
	return p
}

func TestTheLifeOfANode(t *testing.T) {
	inWorld(t, true, func(_ *testing.T, w *world) {
		w.want()
		// Slices without a node are nothing yet.
		w.set(sliceOf("a", 1, plain(0), plain(1)))
		w.want()
		w.set(node("a"))
		w.want("a: GPU-0 1000 GPU-1 1000")
		w.set(pod("p", "uid-1", "a", "c=GPU-1"))
		w.want(`a: GPU-0 1000 GPU-1 0; uid-1 of ns/p holds "c=GPU-1"`)
		// A new generation, in the same slice.
		w.set(sliceOf("a", 2, plain(1), partitioned(2, "A30-24GB")))
		w.want(`a: GPU-1 0 GPU-2 0 of 13 places; uid-1 of ns/p holds "c=GPU-1"`)
		// The node goes, its slices and pods are still there; it comes back.
		w.delete(node("a"))
		w.want(`a:; uid-1 of ns/p holds "c=GPU-1"`)
		w.set(node("a"))
		w.want(`a: GPU-1 0 GPU-2 0 of 13 places; uid-1 of ns/p holds "c=GPU-1"`)
		// The agent is gone: labels take over. Nobody knows which of the GPUs by their new names the pod holds.
		w.delete(sliceOf("a", 1))
		w.want(`a:; uid-1 of ns/p holds "c=GPU-1"`)
		w.set(labelled("a", "1", nil))
		w.want(`a: gpu-0 1000; withheld 1 []; uid-1 of ns/p holds "c=GPU-1"`)
		w.set(labelled("a", "1", map[string]string{podspec.LabelCount: "x"}))
		w.want(`a:; withheld 1 []; uid-1 of ns/p holds "c=GPU-1"; ["label nvidia.com/gpu.count is \"x\": want a number from 0 to 64"]`)
		w.delete(pod("p", "uid-1", "a", ""))
		w.delete(node("a"))
		w.want()
	})
}

func TestTheLifeOfAPod(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		w.set(node("a"))
		w.set(sliceOf("a", 1, plain(0), plain(1)))
		w.set(pod("p", "uid-1", "", ""))
		w.want("a: GPU-0 1000 GPU-1 1000")
		// Assumed by the scheduler: an event of the pod, which is not bound yet, changes nothing.
		assumed, err := gpu.ParseAssignment("c=GPU-1")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := w.cache.Assume("a", cluster.NewPod("uid-1", "ns/p", assumed)); err != nil {
			t.Fatal(err)
		}
		touched := pod("p", "uid-1", "", "")
		touched.Labels = map[string]string{"touched": "yes"}
		w.set(touched)
		w.want(`a: GPU-0 1000 GPU-1 0; uid-1 of ns/p holds "c=GPU-1"`)
		// Bound, elsewhere than it was assumed to be: the API server wins.
		w.set(pod("p", "uid-1", "a", "c=GPU-0"))
		w.want(`a: GPU-0 0 GPU-1 1000; uid-1 of ns/p holds "c=GPU-0"`)
		running := pod("p", "uid-1", "a", "c=GPU-0")
		running.Status.Phase = v1.PodRunning
		w.set(running)
		w.want(`a: GPU-0 0 GPU-1 1000; uid-1 of ns/p holds "c=GPU-0"`)
		ended := running.DeepCopy()
		ended.Status.Phase = v1.PodSucceeded
		w.set(ended)
		w.want("a: GPU-0 1000 GPU-1 1000")
		w.delete(ended)
		w.want("a: GPU-0 1000 GPU-1 1000")
	})
}

func TestPodsWhoseGPUsNobodyKnows(t *testing.T) {
	inWorld(t, true, func(_ *testing.T, w *world) {
		w.set(node("a"))
		w.set(sliceOf("a", 1, plain(0), plain(1), plain(2)))
		// Bound by another scheduler.
		w.set(pod("p", "uid-1", "a", ""))
		w.want(`a: GPU-0 1000 GPU-1 1000 GPU-2 1000; withheld 1 []; uid-1 of ns/p holds ""`)
		w.set(pod("p", "uid-1", "a", "nonsense"))
		w.want(`a: GPU-0 1000 GPU-1 1000 GPU-2 1000; withheld 1 []; uid-1 of ns/p holds ""`)
		w.set(pod("p", "uid-1", "a", "c=GPU-0,GPU-1"))
		w.want(`a: GPU-0 1000 GPU-1 1000 GPU-2 1000; withheld 1 []; uid-1 of ns/p holds ""`)
		w.set(pod("p", "uid-1", "a", "c=GPU-2"))
		w.want(`a: GPU-0 1000 GPU-1 1000 GPU-2 0; uid-1 of ns/p holds "c=GPU-2"`)
		// A request that has no meaning, bound all the same: it runs and holds what its resources say.
		bad := pod("q", "uid-2", "a", "c=GPU-0")
		bad.Annotations[podspec.AnnotationGPUCount] = "two"
		bad.Spec.Containers[0].Resources.Limits["nvidia.com/mig-1g.10gb"] = resource.MustParse("2")
		w.set(bad)
		w.want(`a: GPU-0 1000 GPU-1 1000 GPU-2 0; withheld 1 [1g.10gb 1g.10gb]; uid-1 of ns/p holds "c=GPU-2"; uid-2 of ns/q holds ""`)
		// A pod without GPUs, whatever its annotation says.
		none := pod("r", "uid-3", "a", "c=GPU-1")
		none.Spec.Containers[0].Resources.Limits = nil
		w.set(none)
		w.want(`a: GPU-0 1000 GPU-1 1000 GPU-2 0; withheld 1 [1g.10gb 1g.10gb]; uid-1 of ns/p holds "c=GPU-2"; uid-2 of ns/q holds ""`)
	})
}

func TestAPodReplacedUnderItsName(t *testing.T) {
	inWorld(t, true, func(_ *testing.T, w *world) {
		w.set(node("a"))
		w.set(sliceOf("a", 1, plain(0), plain(1)))
		first := pod("p", "uid-1", "a", "c=GPU-0")
		w.set(first)
		w.want(`a: GPU-0 0 GPU-1 1000; uid-1 of ns/p holds "c=GPU-0"`)
		w.delete(first)
		w.set(pod("p", "uid-2", "a", "c=GPU-1"))
		w.want(`a: GPU-0 1000 GPU-1 0; uid-2 of ns/p holds "c=GPU-1"`)
		// An event of the first one, late.
		w.tracker.Refresh(first)
		w.want(`a: GPU-0 1000 GPU-1 0; uid-2 of ns/p holds "c=GPU-1"`)
	})
}

// The watch breaks, the pod is replaced, and the informer lists anew: to the handler that is one update.
func TestAPodReplacedWhileNobodyWatched(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		w.set(node("a"))
		w.set(sliceOf("a", 1, plain(0), plain(1)))
		gone := pod("gone", "uid-9", "a", "c=GPU-1")
		w.set(pod("p", "uid-1", "a", "c=GPU-0"))
		w.set(gone)
		w.want(`a: GPU-0 0 GPU-1 0; uid-1 of ns/p holds "c=GPU-0"; uid-9 of ns/gone holds "c=GPU-1"`)
		w.mu.Lock() // the informer cannot list again before all is done
		broken := len(w.watches)
		w.expired = true
		for _, open := range w.watches {
			open.Stop()
		}
		w.delete(pod("p", "uid-1", "", ""))
		w.set(pod("p", "uid-2", "a", "c=GPU-0"))
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
		w.want(`a: GPU-0 0 GPU-1 1000; uid-2 of ns/p holds "c=GPU-0"`)
	})
}

func TestLateEventsNeverBringBackAnOldState(t *testing.T) {
	inWorld(t, true, func(_ *testing.T, w *world) {
		oldSlice, oldNode := sliceOf("a", 1, plain(0)), labelled("a", "", nil)
		oldPod := pod("p", "uid-1", "a", "c=GPU-0")
		w.set(node("a"))
		w.set(sliceOf("a", 2, plain(0), plain(1)))
		w.set(pod("p", "uid-1", "a", "c=GPU-1"))
		now := `a: GPU-0 1000 GPU-1 0; uid-1 of ns/p holds "c=GPU-1"`
		w.want(now)
		ended := pod("q", "uid-2", "a", "c=GPU-0")
		other := sliceOf("a", 1, plain(0))
		other.Spec.Driver = "gpu.nvidia.com"
		for _, late := range []any{
			oldSlice, oldNode, oldPod, ended, other, &resourceapi.ResourceSlice{}, &v1.ConfigMap{}, nil, "text",
			cache.DeletedFinalStateUnknown{Key: "ns/p", Obj: oldPod},
			cache.DeletedFinalStateUnknown{Key: "a", Obj: oldNode},
			cache.DeletedFinalStateUnknown{Key: "ns/p"},
			cache.DeletedFinalStateUnknown{Key: "x", Obj: oldSlice},
		} {
			w.tracker.Refresh(late)
			w.want(now)
		}
		// A tombstone counts as the object that it is of.
		for _, tombstone := range []any{pod("x", "uid-7", "a", "c=GPU-0"), cache.DeletedFinalStateUnknown{Key: "ns/x", Obj: pod("x", "uid-7", "a", "c=GPU-0")}} {
			w.cache.Confirm("a", cluster.NewPod("uid-7", "ns/x", gpu.Assignment{Containers: []gpu.ContainerGrants{{Container: "c", Grants: []gpu.Grant{{GPU: "GPU-0"}}}}}))
			w.want(`a: GPU-0 0 GPU-1 0; uid-1 of ns/p holds "c=GPU-1"; uid-7 of ns/x holds "c=GPU-0"`)
			w.tracker.Refresh(tombstone)
			w.want(now)
		}
	})
}

func TestWithoutResourceSlices(t *testing.T) {
	inWorld(t, false, func(_ *testing.T, w *world) {
		w.set(sliceOf("a", 1, plain(0))) // nobody looks at them
		w.set(labelled("a", "", nil))
		w.want("a: gpu-0 1000 gpu-1 1000")
		w.tracker.Refresh(sliceOf("a", 1, plain(0)))
		w.want("a: gpu-0 1000 gpu-1 1000")
	})
}

func TestWhatIsThereAtTheStartIsThereAfterTheSync(t *testing.T) {
	inWorld(t, true, func(t *testing.T, w *world) {
		// Not even after waiting for the informers to have nothing to do.
		want := []string{`a: GPU-0 0 GPU-1 1000; uid-1 of ns/p holds "c=GPU-0"`, "b: gpu-0 1000 gpu-1 1000"}
		if diff := cmp.Diff(want, show(w.cache.Nodes())); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	}, node("a"), sliceOf("a", 1, plain(0), plain(1)), pod("p", "uid-1", "a", "c=GPU-0"), labelled("b", "", nil), node("c"))
}

func TestWaitForSyncEndsWithTheContext(t *testing.T) {
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	tracker, err := NewTracker(factory, weftcache.New(), true)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(fmt.Errorf("enough"))
	// The factory was never started.
	err = tracker.WaitForSync(ctx)
	if want := "waiting for nodes, pods and ResourceSlices: enough"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// Objects come, change and go in any order; when it is quiet the cache is what the objects alone say.
func TestRandomEventsArriveAtWhatTheObjectsSay(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			inWorld(t, true, func(t *testing.T, w *world) {
				r := rand.New(rand.NewPCG(seed, 6))
				nodes, sliceObjects, pods := map[string]*v1.Node{}, map[string]*resourceapi.ResourceSlice{}, map[string]*v1.Pod{}
				var past []any
				uids := 0
				for range 120 {
					name := []string{"a", "b"}[r.IntN(2)]
					switch r.IntN(8) {
					case 0:
						n := node(name)
						if r.IntN(2) == 0 {
							n = labelled(name, []string{"", "1"}[r.IntN(2)], nil)
						}
						nodes[name] = n
						w.set(n)
					case 1:
						if n := nodes[name]; n != nil && r.IntN(3) == 0 {
							past = append(past, n)
							delete(nodes, name)
							w.delete(n)
						}
					case 2, 3:
						devices := []gpu.Device{plain(0), plain(1), partitioned(2, "A30-24GB")}[r.IntN(3):]
						s := sliceOf(name, int64(r.IntN(3)), devices...)
						s.Name = fmt.Sprintf("%s-%d", name, r.IntN(2))
						s.Spec.Pool.ResourceSliceCount = int64(1 + r.IntN(2))
						sliceObjects[s.Name] = s
						w.set(s)
					case 4:
						key := fmt.Sprintf("%s-%d", name, r.IntN(2))
						if s := sliceObjects[key]; s != nil {
							past = append(past, s)
							delete(sliceObjects, key)
							w.delete(s)
						}
					case 5, 6:
						key := fmt.Sprintf("p%d", r.IntN(4))
						p := pods[key]
						if p == nil {
							uids++
							p = pod(key, fmt.Sprintf("uid-%d", uids), "", "")
						}
						past = append(past, p)
						p = p.DeepCopy()
						switch r.IntN(4) {
						case 0, 1:
							p.Spec.NodeName = name
							p.Annotations[podspec.AnnotationGPUs] = fmt.Sprintf("c=GPU-%d", r.IntN(3))
						case 2:
							p.Status.Phase = []v1.PodPhase{v1.PodRunning, v1.PodSucceeded, v1.PodFailed}[r.IntN(3)]
						}
						pods[key] = p
						w.set(p)
					case 7:
						key := fmt.Sprintf("p%d", r.IntN(4))
						if p := pods[key]; p != nil {
							past = append(past, p)
							delete(pods, key)
							w.delete(p)
						}
					}
					if len(past) > 0 && r.IntN(3) == 0 {
						w.tracker.Refresh(past[r.IntN(len(past))])
					}
				}
				synctest.Wait()
				var n []*v1.Node
				var s []*resourceapi.ResourceSlice
				var p []*v1.Pod
				for _, o := range nodes {
					n = append(n, o)
				}
				for _, o := range sliceObjects {
					s = append(s, o)
				}
				for _, o := range pods {
					p = append(p, o)
				}
				want := show(Build(n, s, p).Sorted())
				if diff := cmp.Diff(want, show(w.cache.Nodes())); diff != "" {
					t.Errorf("-want +got\n%s", diff)
				}
				if len(strings.Join(want, "")) == 0 {
					t.Log("nothing is left in the end")
				}
			})
		})
	}
}
