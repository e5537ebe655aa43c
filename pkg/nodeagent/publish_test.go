package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
)

// newCluster is an API server with the node, as far as the agent needs one: of the names and versions of ResourceSlices the fake
// knows nothing. It serves ResourceSlices while served is true.
func newCluster(served *atomic.Bool, objects ...runtime.Object) *fake.Clientset {
	client := fake.NewClientset(append(objects, aNode())...)
	client.Resources = []*metav1.APIResourceList{{
		GroupVersion: resourceapi.SchemeGroupVersion.String(), APIResources: []metav1.APIResource{{Name: "resourceslices"}},
	}}
	client.PrependReactor("get", "resource", func(clienttesting.Action) (bool, runtime.Object, error) {
		if served.Load() {
			return false, nil, nil
		}
		return true, nil, apierrors.NewNotFound(resourceapi.Resource("resourceslices"), "")
	})
	var version atomic.Int64
	client.PrependReactor("*", "resourceslices", func(action clienttesting.Action) (bool, runtime.Object, error) {
		var s *resourceapi.ResourceSlice
		switch a := action.(type) {
		case clienttesting.CreateAction: // an update is one, too
			s, _ = a.GetObject().(*resourceapi.ResourceSlice)
		}
		if s != nil {
			n := version.Add(1)
			s.ResourceVersion = strconv.FormatInt(n, 10)
			if s.Name == "" {
				s.Name = fmt.Sprintf("%s%d", s.GenerateName, n)
				s.UID = types.UID(s.Name)
			}
		}
		return false, nil, nil
	})
	return client
}

// yes is served from the start.
func yes() *atomic.Bool {
	served := &atomic.Bool{}
	served.Store(true)
	return served
}

func listSlices(t *testing.T, client *fake.Clientset) []*resourceapi.ResourceSlice {
	t.Helper()
	list, err := client.ResourceV1().ResourceSlices().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out []*resourceapi.ResourceSlice
	for i := range list.Items {
		out = append(out, &list.Items[i])
	}
	return out
}

// until waits for the condition, which says what is missing, and "" when nothing is.
func until(t *testing.T, what string, condition func() string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for {
		missing := condition()
		if missing == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within a minute: %s: %s", what, missing)
		}
	}
}

// publish runs a publisher of the client until the function that it returns is called.
func publish(t *testing.T, client *fake.Clientset) (p *publisher, stop func()) {
	p = &publisher{client: client, node: aNode(), board: &board{}, syncDelay: 10 * time.Millisecond, served: 10 * time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return p, stop
}

// Not in a bubble of testing/synctest: where the clock stands still while there is work, the controller of the slices finds work for
// ever.
func TestSlicesFollowTheState(t *testing.T) {
	client := newCluster(yes())
	p, stop := publish(t, client)
	expect := func(when string, state *State) {
		t.Helper()
		until(t, when, func() string {
			inventory := inventory.FromSlices(listSlices(t, client))
			return strings.Join(inventory.Problems, "; ") + cmp.Diff(state.Devices, inventory.Devices, cmpopts.EquateEmpty())
		})
	}
	one, two := stateOf(cardOf("GPU-a", 0)), stateOf(cardOf("GPU-a", 0), cardOf("GPU-b", 1))
	p.board.post(one)
	expect("one GPU", one)
	p.board.post(two)
	expect("two GPUs", two)
	sick := derive([]card{cardOf("GPU-a", 0), cardOf("GPU-b", 1)}, hostWith(cardOf("GPU-a", 0)), nil, nil, all)
	p.board.post(sick)
	expect("one of two is gone", sick)

	var cards []card
	for i := range 70 { // more than one slice takes
		cards = append(cards, cardOf(gpu.ID(fmt.Sprintf("GPU-%02d", i)), i))
	}
	many := stateOf(cards...)
	p.board.post(many)
	expect("many GPUs", many)
	published := listSlices(t, client)
	if len(published) != 2 || published[0].Spec.Pool.Generation != published[1].Spec.Pool.Generation {
		t.Errorf("%d slices, want 2 of one generation", len(published))
	}
	want := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: testNode, UID: "uid-1", Controller: new(true)}}
	if diff := cmp.Diff(want, published[0].OwnerReferences); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}

	// The kubelet deletes the slices of its node when it starts.
	for _, s := range published {
		if err := client.ResourceV1().ResourceSlices().Delete(t.Context(), s.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	expect("after they were deleted", many)
	p.board.post(stateOf())
	until(t, "no GPU is told by one slice that is empty", func() string {
		if all := listSlices(t, client); len(all) != 1 || len(all[0].Spec.Devices) != 0 {
			return fmt.Sprintf("%d slices", len(all))
		}
		return ""
	})
	stop()
	if got := len(listSlices(t, client)); got != 1 {
		t.Errorf("%d slices after the end, want the one there was", got)
	}
}

func TestWithdrawDeletesOwnSlicesOnly(t *testing.T) {
	slice := func(name, driver, node string) *resourceapi.ResourceSlice {
		return &resourceapi.ResourceSlice{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
			Spec:       resourceapi.ResourceSliceSpec{Driver: driver, NodeName: &node},
		}
	}
	everywhere := slice("everywhere", inventory.Driver, "")
	everywhere.Spec.NodeName = nil
	client := newCluster(
		yes(), slice("ours-1", inventory.Driver, testNode), slice("ours-2", inventory.Driver, testNode), everywhere,
		slice("nvidia", "gpu.nvidia.com", testNode), slice("neighbour", inventory.Driver, "node-2"),
	)
	p := &publisher{client: client, node: aNode()}
	if err := p.withdraw(t.Context()); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, s := range listSlices(t, client) {
		left = append(left, s.Name)
	}
	slices.Sort(left)
	if diff := cmp.Diff([]string{"everywhere", "neighbour", "nvidia"}, left); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

func TestServerThatLearnsToServeSlices(t *testing.T) {
	served := &atomic.Bool{}
	client := newCluster(served)
	p, _ := publish(t, client)
	state := stateOf(cardOf("GPU-a", 0))
	p.board.post(state)
	if err := slicesServed(client); !errors.Is(err, errNotServed) {
		t.Errorf("error %v, want that they are not served", err)
	}
	if got := listSlices(t, client); len(got) > 0 {
		t.Errorf("published at a server that does not serve them: %v", got)
	}
	served.Store(true)
	until(t, "the GPUs are published", func() string {
		return cmp.Diff(state.Devices, inventory.FromSlices(listSlices(t, client)).Devices, cmpopts.EquateEmpty())
	})
}
