package gpufit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/podspec"
)

var (
	pods     = schema.GroupResource{Resource: "pods"}
	notFound = apierrors.NewNotFound(pods, "p")
)

func slicesOf(name string, d []gpu.Device, generation int64) []any {
	var out []any
	for _, s := range inventory.Slices(name, d, generation) {
		out = append(out, (*resourceapi.ResourceSlice)(s))
	}
	return out
}

// onBind makes every Binding end this way, and returns those that were sent.
func (r *rig) onBind(err error) *[]*v1.Binding {
	sent := &[]*v1.Binding{}
	r.client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "binding" {
			return false, nil, nil
		}
		*sent = append(*sent, a.(clienttesting.CreateAction).GetObject().(*v1.Binding))
		return true, nil, err
	})
	return sent
}

// onGet makes every question for a pod end this way.
func (r *rig) onGet(p *v1.Pod, err error) *int {
	asked := new(int)
	r.client.PrependReactor("get", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		*asked++
		return true, p, err
	})
	return asked
}

func TestBindSendsNodeAndGPUsInOneWrite(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 2)...)
	sent := r.onBind(nil)
	p := pod("p", whole(2), uid("the-uid"))
	state := r.reserve(p, "a")
	if status := r.pl.Bind(t.Context(), state, p, "a"); !status.IsSuccess() {
		t.Fatal(status)
	}
	want := []*v1.Binding{{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "p", UID: "the-uid", Annotations: map[string]string{podspec.AnnotationGPUs: "main=a-0,a-1"},
		},
		Target: v1.ObjectReference{Kind: "Node", Name: "a"},
	}}
	if diff := cmp.Diff(want, *sent); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(r.client.Actions()) != 1 {
		t.Errorf("want one call of the API, got %v", r.client.Actions())
	}
}

// A cycle that ends while others bind has sent nothing, so nothing is left open.
func TestABindingThatWaitsForOthersEndsWithItsCycle(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 2)...)
	r.onBind(nil)
	for range maxBinding {
		r.pl.shared.binding.slots <- struct{}{}
	}
	p := pod("p", whole(2), uid("the-uid"))
	state := r.reserve(p, "a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if status := r.pl.Bind(ctx, state, p, "a"); !errors.Is(status.AsError(), errNotSent) || !errors.Is(status.AsError(), context.Canceled) {
		t.Errorf("got %v", status)
	}
	if len(r.client.Actions()) != 0 || r.pl.shared.cache.Suspected("the-uid") {
		t.Errorf("calls %v, suspected: %t", r.client.Actions(), r.pl.shared.cache.Suspected("the-uid"))
	}
	<-r.pl.shared.binding.slots
	if status := r.pl.Bind(t.Context(), state, p, "a"); !status.IsSuccess() || len(r.pl.shared.binding.slots) != maxBinding-1 {
		t.Errorf("got %v, %d in flight", status, len(r.pl.shared.binding.slots))
	}
}

func TestRefused(t *testing.T) {
	status := func(code int32, reason metav1.StatusReason) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason}}
	}
	for name, tc := range map[string]struct {
		err  error
		want bool
	}{
		"400 bad request": {apierrors.NewBadRequest("x"), true},
		"401":             {apierrors.NewUnauthorized("x"), true},
		"403":             {apierrors.NewForbidden(pods, "p", nil), true},
		"404":             {notFound, true},
		"405":             {apierrors.NewMethodNotSupported(pods, "create"), true},
		"413":             {apierrors.NewRequestEntityTooLargeError("x"), true},
		"422":             {apierrors.NewInvalid(schema.GroupKind{Kind: "Binding"}, "p", nil), true},
		"429, which comes before anything is done": {apierrors.NewTooManyRequests("x", 1), true},
		"wrapped":                               {fmt.Errorf("posting: %w", notFound), true},
		"the end of the 4xx":                    {status(499, ""), true},
		"408":                                   {status(http.StatusRequestTimeout, ""), false},
		"409, for it may hide an error of etcd": {apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, "p", errors.New("etcdserver: request timed out")), false},
		"a timeout by its reason":               {status(400, metav1.StatusReasonTimeout), false},
		"500":                                   {apierrors.NewInternalError(errTest), false},
		"500 server timeout":                    {apierrors.NewServerTimeout(pods, "create", 1), false},
		"503":                                   {apierrors.NewServiceUnavailable("x"), false},
		"504":                                   {apierrors.NewTimeoutError("x", 1), false},
		"a code below 400":                      {status(302, ""), false},
		"no code":                               {status(0, ""), false},
		"a broken connection":                   {io.ErrUnexpectedEOF, false},
		"any error":                             {errTest, false},
		"the cycle's deadline":                  {context.DeadlineExceeded, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := refused(tc.err); got != tc.want {
				t.Errorf("refused(%v) = %t, want %t", tc.err, got, tc.want)
			}
		})
	}
}

func TestWhatBecomesOfABindingThatFailed(t *testing.T) {
	conflict := apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, "p", errors.New("etcdserver: request timed out"))
	deleting := func(p *v1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }
	const text = "main=a-0"
	for name, tc := range map[string]struct {
		bind error
		// shown is what the API server says when asked.
		shown    *v1.Pod
		showErr  error
		asked    int
		bound    bool
		keeps    bool // the GPUs after Unreserve
		contains string
	}{
		"refused: nobody is asked":           {bind: notFound, contains: "not found"},
		"lost, and the pod is gone":          {bind: errTest, showErr: notFound, asked: 1, contains: errTest.Error()},
		"lost, and the pod is another":       {bind: errTest, shown: pod("p", whole(1), uid("another"), on("a", text)), asked: 1, contains: errTest.Error()},
		"lost, and the pod is bound so":      {bind: errTest, shown: pod("p", whole(1), on("a", text)), asked: 1, bound: true, keeps: true},
		"lost, and it is bound elsewhere":    {bind: errTest, shown: pod("p", whole(1), on("b", text)), asked: 1, contains: errTest.Error()},
		"lost, and it is bound otherwise":    {bind: errTest, shown: pod("p", whole(1), on("a", "main=a-1")), asked: 1, contains: errTest.Error()},
		"lost, and it is bound without":      {bind: errTest, shown: pod("p", whole(1), on("a", "")), asked: 1, contains: errTest.Error()},
		"lost, and it is not bound yet":      {bind: errTest, shown: pod("p", whole(1)), asked: 1, keeps: true, contains: "did not say whether it succeeded"},
		"lost, and it is being deleted":      {bind: errTest, shown: pod("p", whole(1), deleting), asked: 1, contains: errTest.Error()},
		"lost, bound so and being deleted":   {bind: errTest, shown: pod("p", whole(1), deleting, on("a", text)), asked: 1, bound: true, keeps: true},
		"lost, and so is the second answer":  {bind: errTest, showErr: errTest, asked: 1, keeps: true, contains: "did not say whether it succeeded"},
		"lost, and asking is forbidden":      {bind: errTest, showErr: apierrors.NewForbidden(pods, "p", nil), asked: 1, keeps: true, contains: "did not say whether it succeeded"},
		"a conflict that was a timeout":      {bind: conflict, shown: pod("p", whole(1)), asked: 1, keeps: true, contains: "did not say whether it succeeded"},
		"a conflict, but it is bound so":     {bind: conflict, shown: pod("p", whole(1), on("a", text)), asked: 1, bound: true, keeps: true},
		"a conflict with another binding":    {bind: conflict, shown: pod("p", whole(1), on("b", text)), asked: 1, contains: "etcdserver"},
		"a timeout of the API server itself": {bind: apierrors.NewTimeoutError("x", 1), shown: pod("p", whole(1)), asked: 1, keeps: true, contains: "did not say"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "{}")
			r.addNode("a", devices("a", "H100", 1)...)
			r.onBind(tc.bind)
			asked := r.onGet(tc.shown, tc.showErr)
			p := pod("p", whole(1))
			r.see(p)
			state := r.reserve(p, "a")
			status := r.pl.Bind(t.Context(), state, p, "a")
			if status.IsSuccess() != tc.bound || *asked != tc.asked || !strings.Contains(status.Message(), tc.contains) {
				t.Errorf("got %v %q, asked %d times, want bound %t, %d times, %q", status.Code(), status.Message(), *asked, tc.bound, tc.asked, tc.contains)
			}
			if !tc.bound {
				if status.Code() != fwk.Error || !strings.Contains(status.Message(), "binding pod ns/p to node a") || !errors.Is(status.AsError(), tc.bind) {
					t.Errorf("got %v %q, want an error that names pod and node and wraps the cause", status.Code(), status.Message())
				}
				r.pl.Unreserve(t.Context(), state, p, "a")
				r.pl.Unreserve(t.Context(), state, p, "a")
			}
			if held := len(r.held("a")) == 1; held != tc.keeps {
				t.Errorf("keeps its GPU: %t, want %t", held, tc.keeps)
			}
			if got, want := r.pl.shared.cache.Suspected("p"), tc.keeps && !tc.bound; got != want {
				t.Errorf("suspected: %t, want %t", got, want)
			}
		})
	}
}

// suspect brings the pod into the state of which nobody knows whether it is bound, on node "a" of one H100.
func suspect(t *testing.T) (*rig, *v1.Pod) {
	t.Helper()
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 1)...)
	r.onBind(errTest)
	p := pod("p", whole(1))
	r.see(p)
	r.onGet(p, nil)
	state := r.reserve(p, "a")
	if status := r.pl.Bind(t.Context(), state, p, "a"); status.IsSuccess() {
		t.Fatal("bound")
	}
	r.pl.Unreserve(t.Context(), state, p, "a")
	return r, p
}

func TestASuspectedPodKeepsItsGPUsForAWhile(t *testing.T) {
	r, p := suspect(t)
	w, bound := pod("w", whole(1)), pod("bound", whole(1))
	bound.Spec.NodeName = "elsewhere"
	r.store(w, bound)
	try := func() *fwk.Status {
		_, status := r.pl.PreFilter(t.Context(), framework.NewCycleState(), p, nil)
		return status
	}
	for _, after := range []time.Duration{0, bindingGrace - 1} {
		r.now = time.Unix(1_000_000, 0).Add(after)
		if got := r.filter(r.cycleOf(w), w, "a"); got != "InsufficientGPU: too few idle GPUs" {
			t.Errorf("after %v another pod gets the GPU: %q", after, got)
		}
		if status := try(); status.Code() != fwk.Error || !strings.Contains(status.Message(), "pod ns/p") {
			t.Errorf("after %v the pod is tried again: %v %q", after, status.Code(), status.Message())
		}
		if r.activated != nil {
			t.Errorf("after %v other pods are woken, and nothing was given back", after)
		}
	}
	r.now = time.Unix(1_000_000, 0).Add(bindingGrace)
	state := r.cycleOf(w)
	if r.activated["ns/w"] == nil || r.activated["ns/bound"] != nil {
		t.Errorf("no event says that the GPU is free, so those who wait must be woken, and only they: %v", r.activated)
	}
	if got := r.filter(state, w, "a"); got != "" {
		t.Errorf("after the grace the GPU is not free: %q", got)
	}
	if status := try(); !status.IsSuccess() {
		t.Errorf("after the grace the pod is not tried again: %v", status)
	}
}

func TestWhatEndsASuspicion(t *testing.T) {
	for name, tc := range map[string]struct {
		happens func(r *rig, p *v1.Pod)
		held    map[string]string
	}{
		"the informer shows it bound": {
			func(r *rig, _ *v1.Pod) { r.see(pod("p", whole(1), on("a", "main=a-0"))) }, map[string]string{"ns/p": "main=a-0"},
		},
		"the informer shows it bound elsewhere": {
			func(r *rig, _ *v1.Pod) { r.see(pod("p", whole(1), on("b", "main=b-0"))) }, map[string]string{},
		},
		"the pod is deleted": {
			func(r *rig, p *v1.Pod) {
				r.remove(p)
				r.pl.shared.tracker.Refresh(p)
			}, map[string]string{},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, p := suspect(t)
			tc.happens(r, p)
			r.now = r.now.Add(2 * bindingGrace)
			r.cycleOf(pod("other")) // where deadlines are looked at
			if diff := cmp.Diff(tc.held, r.held("a")); diff != "" || r.pl.shared.cache.Suspected("p") {
				t.Errorf("suspected %t, held (-want +got):\n%s", r.pl.shared.cache.Suspected("p"), diff)
			}
		})
	}
}

func TestAPendingUpdateDoesNotEndASuspicion(t *testing.T) {
	r, _ := suspect(t)
	r.see(pod("p", whole(1), tried))
	if len(r.held("a")) != 1 || !r.pl.shared.cache.Suspected("p") {
		t.Errorf("held %v, suspected %t", r.held("a"), r.pl.shared.cache.Suspected("p"))
	}
}

// TestTheQuestionOutlivesTheCycle: what ended the Binding may be the end of the cycle's own context.
func TestTheQuestionOutlivesTheCycle(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 1)...)
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost {
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				t.Error(err)
			}
			cancel()
			<-req.Context().Done()
			return
		}
		bound := pod("p", whole(1), on("a", "main=a-0"))
		bound.APIVersion, bound.Kind = "v1", "Pod"
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(bound); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	var err error
	if r.api, err = kubernetes.NewForConfig(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}); err != nil {
		t.Fatal(err)
	}
	p := pod("p", whole(1))
	state := r.reserve(p, "a")
	if status := r.pl.Bind(ctx, state, p, "a"); !status.IsSuccess() {
		t.Errorf("got %v, want it found bound", status)
	}
}
