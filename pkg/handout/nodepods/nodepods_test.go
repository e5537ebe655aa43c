package nodepods

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/slot"
)

var resourcePods = v1.SchemeGroupVersion.WithResource("pods")

// pod is one that asks for a whole GPU, with the assignment, if it is not empty.
func pod(uid, name, assignment string) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, UID: types.UID(uid), Annotations: map[string]string{"other": "annotation"},
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "somebody"}},
		},
		Spec: v1.PodSpec{
			NodeName: "node-a",
			Containers: []v1.Container{{
				Name: "main", Image: "image", Env: []v1.EnvVar{{Name: "PASSWORD", Value: "secret"}},
				Resources: v1.ResourceRequirements{Limits: v1.ResourceList{podspec.ResourceGPU: resource.MustParse("1")}},
			}},
		},
		Status: v1.PodStatus{Phase: v1.PodRunning, PodIP: "192.0.2.1"},
	}
	if assignment != "" {
		p.Annotations[podspec.AnnotationGPUs] = assignment
	}
	return p
}

func over(p *v1.Pod) *v1.Pod {
	p = p.DeepCopy()
	p.Status.Phase = v1.PodFailed
	return p
}

// processes are the pods that have some; only TestDeletedByForce has any.
var processes map[string]bool

// following runs f in a bubble of synctest with Pods that follow a fake API server.
func following(t *testing.T, f func(t *testing.T, client *fake.Clientset, p *Pods), objects ...runtime.Object) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(objects...)
		p, err := New(client, "node-a", func() map[string]bool { return processes })
		if err != nil {
			t.Fatal(err)
		}
		if pods, all := p.Snapshot(); len(pods) > 0 || all {
			t.Errorf("before it runs there are %v, and that is all: %t", pods, all)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.Run(ctx)
		}()
		synctest.Wait()
		f(t, client, p)
		cancel()
		<-done
	})
}

// show has a line for each pod.
func show(p *Pods) []string {
	pods, all := p.Snapshot()
	lines := []string{fmt.Sprintf("all: %t", all)}
	for _, uid := range []string{"a", "b", "c"} {
		if pod, ok := pods[uid]; ok {
			lines = append(lines, fmt.Sprintf("%s %s/%s over %t %q %v", uid, pod.Namespace, pod.Name, pod.Over, pod.Assignment, pod.Err))
		}
	}
	return lines
}

func TestFollowsPods(t *testing.T) {
	plain := pod("c", "plain", "")
	plain.Spec.Containers[0].Resources = v1.ResourceRequirements{}
	following(t, func(t *testing.T, client *fake.Clientset, p *Pods) {
		tracker := client.Tracker()
		changed := p.Changed()
		step := func(what string, do func() error, change bool, want ...string) {
			t.Helper()
			if err := do(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if diff := cmp.Diff(append([]string{"all: true"}, want...), show(p)); diff != "" {
				t.Errorf("%s: -want +got\n%s", what, diff)
			}
			select {
			case <-changed:
				if !change {
					t.Errorf("%s: is no change", what)
				}
			default:
				if change {
					t.Errorf("%s: nobody was told", what)
				}
			}
			changed = p.Changed()
		}
		const a, c = `a ns/first over false "main=GPU-1" <nil>`, `c ns/plain over false "" <nil>`
		step("at first", func() error { return nil }, false, a, c)
		step("a pod without an assignment", func() error { return tracker.Add(pod("b", "second", "")) }, true,
			a, `b ns/second over false "" the pod has no annotation weft.sh/gpus`, c)
		step("an assignment that is not what it asks for", func() error {
			return tracker.Update(resourcePods, pod("b", "second", "main=GPU-1,GPU-2"), "ns")
		}, true, a, `b ns/second over false "" malformed GPU assignment: "main=GPU-1,GPU-2" is not what the pod asks for`, c)
		step("an assignment", func() error { return tracker.Update(resourcePods, pod("b", "second", "main=GPU-2"), "ns") }, true,
			a, `b ns/second over false "main=GPU-2" <nil>`, c)
		step("what does not matter", func() error {
			news := pod("b", "second", "main=GPU-2")
			news.Status.PodIP = "192.0.2.2"
			return tracker.Update(resourcePods, news, "ns")
		}, false, a, `b ns/second over false "main=GPU-2" <nil>`, c)
		step("a pod vanishes", func() error { return tracker.Delete(resourcePods, "ns", "second") }, true, a, c)
		step("a pod ends", func() error { return tracker.Update(resourcePods, over(pod("a", "first", "main=GPU-1")), "ns") }, true,
			`a ns/first over true "main=GPU-1" <nil>`, c)
		step("and is deleted, but still known as over", func() error { return tracker.Delete(resourcePods, "ns", "first") }, false,
			`a ns/first over true "main=GPU-1" <nil>`, c)
		step("and created again", func() error { return tracker.Add(pod("b", "first", "main=GPU-3")) }, true,
			`a ns/first over true "main=GPU-1" <nil>`, `b ns/first over false "main=GPU-3" <nil>`, c)
		step("many more end and are deleted", func() error {
			for i := range remembered {
				name := fmt.Sprint("many-", i)
				err := errors.Join(tracker.Add(over(pod(name, name, "main=GPU-1"))), tracker.Delete(resourcePods, "ns", name))
				if err != nil {
					return err
				}
				synctest.Wait()
			}
			return nil
		}, true, `b ns/first over false "main=GPU-3" <nil>`, c)
		if pods, _ := p.Snapshot(); len(pods) != remembered+2 {
			t.Errorf("%d pods are known", len(pods))
		}

		for _, action := range client.Actions() {
			if list, ok := action.(clienttesting.ListAction); ok && list.GetListRestrictions().Fields.String() != "spec.nodeName=node-a" {
				t.Errorf("lists %s", list.GetListRestrictions().Fields)
			}
			if watch, ok := action.(clienttesting.WatchAction); ok && watch.GetWatchRestrictions().Fields.String() != "spec.nodeName=node-a" {
				t.Errorf("watches %s", watch.GetWatchRestrictions().Fields)
			}
		}
	}, pod("a", "first", "main=GPU-1"), plain)
}

// An informer that missed the deletion of a pod shows the next one of its name as an update of it.
func TestADeletionThatWasMissed(t *testing.T) {
	p, err := New(fake.NewClientset(), "node-a", func() map[string]bool { return nil })
	if err != nil {
		t.Fatal(err)
	}
	p.note(nil, pod("a", "pod", "main=GPU-1"))
	p.note(pod("a", "pod", "main=GPU-1"), pod("b", "pod", "main=GPU-2"))
	if diff := cmp.Diff([]string{"all: false", `b ns/pod over false "main=GPU-2" <nil>`}, show(p)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestGet(t *testing.T) {
	elsewhere := pod("b", "elsewhere", "main=GPU-2")
	elsewhere.Spec.NodeName = "node-b"
	p, err := New(fake.NewClientset(pod("a", "here", "main=GPU-1"), elsewhere), "node-a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := p.Get(t.Context(), "ns", "here"); err != nil || got.UID != "a" || got.Assignment.String() != "main=GPU-1" {
		t.Errorf("%+v, %v", got, err)
	}
	for name, says := range map[string]string{"elsewhere": `on node "node-b", not on node-a`, "missing": "not found"} {
		if got, err := p.Get(t.Context(), "ns", name); err == nil || !strings.Contains(err.Error(), says) || got.UID != "" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// What is kept is enough: a pod means the same before and after.
func TestStrip(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	share := v1.ResourceRequirements{Limits: v1.ResourceList{podspec.ResourceGPUPercent: resource.MustParse("25")}}
	shares := pod("a", "shares", "side=GPU-1:250m/20480Mi,GPU-2:250m/20480Mi;~init=GPU-3:250m/20480Mi,GPU-2:250m/20480Mi")
	shares.Annotations[podspec.AnnotationGPUCount] = "2"
	shares.Annotations[podspec.AnnotationGPUMemory] = "20Gi"
	shares.Spec.Containers[0].Resources = v1.ResourceRequirements{}
	shares.Spec.InitContainers = []v1.Container{{Name: "side", RestartPolicy: &always, Resources: share}, {Name: "init", Resources: share}}
	contradicting := pod("a", "contradicting", "main=GPU-1")
	contradicting.Spec.NodeSelector = map[string]string{podspec.LabelProduct: "T4"}
	contradicting.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{
		NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchExpressions: []v1.NodeSelectorRequirement{
			{Key: podspec.LabelProduct, Operator: v1.NodeSelectorOpIn, Values: []string{"H100"}},
		}}},
	}}}
	for _, p := range []*v1.Pod{pod("a", "whole", "main=GPU-1"), pod("a", "unassigned", ""), shares, contradicting, over(shares)} {
		stripped, err := strip(p.DeepCopy())
		if err != nil {
			t.Fatal(err)
		}
		s := stripped.(*v1.Pod)
		if len(s.ManagedFields) > 0 || s.Annotations["other"] != "" || s.Status.PodIP != "" || len(s.Spec.Containers[0].Env) > 0 {
			t.Errorf("%s: kept too much: %+v", p.Name, s)
		}
		want, got := read(p), read(s)
		if !same(want, got) || want.UID != got.UID {
			t.Errorf("%s: is %+v, was %+v", p.Name, got, want)
		}
		if p == shares && (want.Err != nil || len(want.Assignment.Containers) != 2) {
			t.Errorf("%s: %+v", p.Name, want)
		}
		var invalid *podspec.InvalidError
		if p == contradicting && !errors.As(got.Err, &invalid) {
			t.Errorf("%s: %v", p.Name, got.Err)
		}
	}
	if got, err := strip(42); got != 42 || err != nil {
		t.Errorf("what is no pod: %v, %v", got, err)
	}
}

func TestDeletedByForce(t *testing.T) {
	processes = map[string]bool{"uid-1": true}
	t.Cleanup(func() { processes = nil })
	following(t, func(t *testing.T, client *fake.Clientset, p *Pods) {
		for _, name := range []string{"runs", "ran"} {
			if err := client.CoreV1().Pods("ns").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		pods, _ := p.Snapshot()
		if len(pods) != 1 || pods["uid-1"].Over {
			t.Errorf("while the containers of uid-1 run: got %v", pods)
		}
		processes = nil
		if pods, _ := p.Snapshot(); len(pods) != 0 {
			t.Errorf("after they have ended: got %v", pods)
		}
	}, pod("uid-1", "runs", "main=g0"), pod("uid-2", "ran", "main=g1"))
}

// What the book says is held may be held by processes of a pod that was deleted by force while there was no agent.
func TestDeletedByForceWhileThereWasNoAgent(t *testing.T) {
	running := map[string]bool{"runs": true, "there": true}
	synctest.Test(t, func(t *testing.T) {
		there := pod("there", "there", "main=g2")
		p, err := New(fake.NewClientset(there, pod("idle", "idle", "main=g3")), "node-a", func() map[string]bool { return running })
		if err != nil {
			t.Fatal(err)
		}
		var book slot.Book
		for _, uid := range []string{"runs", "ran", "there", "idle"} {
			book = book.With(slot.Record{Name: uid, Holder: &slot.Holder{Namespace: "ns", Pod: uid, UID: uid, Container: "main", Assignment: "main=g0"}})
		}
		p.Keep(book.With(slot.Record{Name: "unbound"}))
		ctx, cancel := context.WithCancel(t.Context())
		var ended sync.WaitGroup
		ended.Go(func() { p.Run(ctx) })
		known := func() (out []string) {
			synctest.Wait()
			pods, all := p.Snapshot()
			for uid, pod := range pods {
				out = append(out, fmt.Sprintf("%s %s/%s over %t %s %v, all %t", uid, pod.Namespace, pod.Name, pod.Over, pod.Assignment, pod.Err, all))
			}
			slices.Sort(out)
			return out
		}
		const idle, thereToo = "idle ns/idle over false main=g3 <nil>, all true", "there ns/there over false main=g2 <nil>, all true"
		want := []string{idle, "runs ns/runs over false main=g0 <nil>, all true", thereToo}
		if diff := cmp.Diff(want, known()); diff != "" {
			t.Errorf("while its containers run (-want +got):\n%s", diff)
		}
		changed := p.Changed()
		clear(running)
		if diff := cmp.Diff([]string{idle, thereToo}, known()); diff != "" {
			t.Errorf("after they have ended (-want +got):\n%s", diff)
		}
		select {
		case <-changed:
		default:
			t.Error("nobody was told")
		}
		cancel()
		ended.Wait()
	})
}
