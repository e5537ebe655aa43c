package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/ktesting"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"weft.sh/weft/pkg/slot"
)

// marked is what a reading with the number n answers.
func marked(n int) slot.Kubelet {
	return slot.Kubelet{Active: []slot.Claim{{Pod: fmt.Sprint(n)}}}
}

func TestClaimsAreNeverOlderThanTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var world atomic.Int64 // what the kubelet would say now
		reads := 0
		k := newKubelet(func(context.Context) slot.Kubelet {
			reads++
			n := world.Load()
			time.Sleep(5 * time.Millisecond) // the bubble's clock: the kubelet takes its time to answer
			return marked(int(n))
		})
		var group sync.WaitGroup
		const callers = 2000
		for i := range callers {
			group.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond / 2)
				n := int(world.Add(1))
				got := k.Claims(t.Context())
				var seen int
				if _, err := fmt.Sscan(got.Active[0].Pod, &seen); err != nil || seen < n {
					t.Errorf("a caller that came at %d was told of %d", n, seen)
				}
			})
		}
		group.Wait()
		// One second of calls.
		if reads > listQPS+listBurst+2 || reads < listQPS/2 {
			t.Errorf("%d calls within a second took %d readings; want about %d", callers, reads, listQPS)
		}
	})
}

func TestClaimsSharesAReadingOnlyBeforeItBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reads, proceed := 0, make(chan struct{})
		k := newKubelet(func(context.Context) slot.Kubelet {
			reads++
			n := reads
			<-proceed
			return marked(n)
		})
		answers := make(chan string, 4)
		ask := func() {
			go func() { answers <- k.Claims(t.Context()).Active[0].Pod }()
			synctest.Wait()
		}
		ask() // the first reading is under way, and three others come
		ask()
		ask()
		ask()
		proceed <- struct{}{}
		proceed <- struct{}{}
		got := []string{<-answers, <-answers, <-answers, <-answers}
		slices.Sort(got)
		if diff := cmp.Diff([]string{"1", "2", "2", "2"}, got); diff != "" || reads != 2 {
			t.Errorf("after %d readings (-want +got):\n%s", reads, diff)
		}
	})
}

func TestClaimsEndsWithItsContextButNotForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		proceed := make(chan struct{})
		k := newKubelet(func(ctx context.Context) slot.Kubelet {
			select {
			case <-proceed:
			case <-ctx.Done():
				t.Error("the reading ended with one of its callers")
			}
			return marked(1)
		})
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp, other := make(chan slot.Kubelet, 1), make(chan slot.Kubelet, 1)
		go func() { gaveUp <- k.Claims(ctx) }()
		synctest.Wait()
		go func() { other <- k.Claims(t.Context()) }()
		synctest.Wait()
		cancel()
		if diff := cmp.Diff(slot.Kubelet{}, <-gaveUp); diff != "" {
			t.Errorf("a caller whose context ended (-want +got):\n%s", diff)
		}
		proceed <- struct{}{}
		proceed <- struct{}{}
		if diff := cmp.Diff(marked(1), <-other); diff != "" {
			t.Errorf("another caller (-want +got):\n%s", diff)
		}
	})
}

// podResources answers List with what list returns.
type podResources struct {
	podresources.UnimplementedPodResourcesListerServer
	list func() (*podresources.ListPodResourcesResponse, error)
}

func (p podResources) List(context.Context, *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	return p.list()
}

func servePodResources(t *testing.T, socket string, list func() (*podresources.ListPodResourcesResponse, error)) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	podresources.RegisterPodResourcesListerServer(server, podResources{list: list})
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return server.Stop
}

func openKubelet(t *testing.T, dir string) *Kubelet {
	t.Helper()
	k, err := NewKubelet(filepath.Join(dir, "checkpoint"), filepath.Join(dir, "pods.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func devices(resource string, ids ...string) *podresources.ContainerDevices {
	return &podresources.ContainerDevices{ResourceName: resource, DeviceIds: ids}
}

func TestClaimsOfPodResources(t *testing.T) {
	dir := shortDir(t)
	numa := func(d *podresources.ContainerDevices, node int64) *podresources.ContainerDevices {
		d.Topology = &podresources.TopologyInfo{Nodes: []*podresources.NUMANode{{ID: node}}}
		return d
	}
	servePodResources(t, filepath.Join(dir, "pods.sock"), func() (*podresources.ListPodResourcesResponse, error) {
		return &podresources.ListPodResourcesResponse{PodResources: []*podresources.PodResources{
			{Name: "b", Namespace: "ns", Containers: []*podresources.ContainerResources{
				{Name: "main", Devices: []*podresources.ContainerDevices{
					numa(devices("nvidia.com/gpu", "gpu-3"), 0), numa(devices("nvidia.com/gpu", "gpu-1"), 1), numa(devices("nvidia.com/gpu", "gpu-3"), 1),
					devices("nvidia.com/mig-1g.10gb.me", "1g.10gb+me-0"), devices("amd.com/gpu", "0"), devices("nvidia.com/gpu"),
				}},
				{Name: "idle"},
				nil,
			}},
			{Name: "a", Namespace: "ns", Containers: []*podresources.ContainerResources{
				{Name: "main", Devices: []*podresources.ContainerDevices{devices("weft.sh/gpu-percent", "share-11"), devices("weft.sh/gpu-percent", "share-10")}},
			}},
			nil,
		}}, nil
	})
	got := openKubelet(t, dir).Claims(t.Context())
	want := slot.Kubelet{Active: []slot.Claim{
		{Namespace: "ns", Pod: "a", Container: "main", Resource: shared, Slots: []string{"share-10", "share-11"}},
		{Namespace: "ns", Pod: "b", Container: "main", Resource: whole, Slots: []string{"gpu-1", "gpu-3"}},
		{Namespace: "ns", Pod: "b", Container: "main", Resource: mig, Slots: []string{"1g.10gb+me-0"}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
}

func TestPodResourcesThatHasNothingIsNotNil(t *testing.T) {
	dir := shortDir(t)
	servePodResources(t, filepath.Join(dir, "pods.sock"), func() (*podresources.ListPodResourcesResponse, error) {
		return &podresources.ListPodResourcesResponse{}, nil
	})
	if err := os.WriteFile(filepath.Join(dir, "checkpoint"), []byte(`{"Data":{"PodDeviceEntries":null}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	want := slot.Kubelet{Checkpoint: []slot.Claim{}, Active: []slot.Claim{}}
	if diff := cmp.Diff(want, openKubelet(t, dir).Claims(t.Context())); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
}

func TestPodResourcesOfABigNode(t *testing.T) {
	dir := shortDir(t)
	servePodResources(t, filepath.Join(dir, "pods.sock"), func() (*podresources.ListPodResourcesResponse, error) {
		out := &podresources.ListPodResourcesResponse{}
		for i := range 300 {
			c := &podresources.ContainerResources{Name: strings.Repeat("x", 20_000)}
			c.Devices = append(c.Devices, devices("weft.sh/gpu-percent", shared.Slot(i)))
			out.PodResources = append(out.PodResources, &podresources.PodResources{
				Name: fmt.Sprintf("pod-%d", i), Namespace: "ns", Containers: []*podresources.ContainerResources{c},
			})
		}
		return out, nil
	})
	if n := len(openKubelet(t, dir).Claims(t.Context()).Active); n != 300 {
		t.Errorf("%d claims from an answer of more than 4 MiB; want 300", n)
	}
}

func TestPodResourcesRefusesByItsRateLimit(t *testing.T) {
	dir := shortDir(t)
	calls := 0
	servePodResources(t, filepath.Join(dir, "pods.sock"), func() (*podresources.ListPodResourcesResponse, error) {
		if calls++; calls <= 2 {
			return nil, status.Error(codes.ResourceExhausted, "rejected by rate limit")
		}
		return &podresources.ListPodResourcesResponse{}, nil
	})
	if openKubelet(t, dir).Claims(t.Context()).Active == nil {
		t.Error("no answer after two refusals")
	}

	dir = shortDir(t)
	servePodResources(t, filepath.Join(dir, "pods.sock"), func() (*podresources.ListPodResourcesResponse, error) {
		return nil, status.Error(codes.ResourceExhausted, "rejected by rate limit")
	})
	if openKubelet(t, dir).Claims(t.Context()).Active != nil {
		t.Error("an answer although every call was refused")
	}
}

func TestKubeletThatComesBack(t *testing.T) {
	dir := shortDir(t)
	socket := filepath.Join(dir, "pods.sock")
	answer := func() (*podresources.ListPodResourcesResponse, error) {
		return &podresources.ListPodResourcesResponse{}, nil
	}
	k := openKubelet(t, dir)
	for range 2 {
		stop := servePodResources(t, socket, answer)
		if k.Claims(t.Context()).Active == nil {
			t.Fatal("PodResources did not answer")
		}
		stop()
		// Nobody listens: the half is nil once the kubelet was given its time.
		if got := k.Claims(t.Context()); got.Active != nil || got.Checkpoint != nil {
			t.Fatalf("got %+v without a kubelet; want nil", got)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !strings.Contains(k.trouble["checkpoint"], "no such file") || k.trouble["PodResources"] == "" {
		t.Errorf("the log has no reason: %q", k.trouble)
	}
}

func TestAReadingThatFailsIsLoggedOnce(t *testing.T) {
	logger := ktesting.NewLogger(t, ktesting.NewConfig(ktesting.BufferLogs(true)))
	ctx := klog.NewContext(t.Context(), logger)
	k := newKubelet(nil)
	for _, err := range []error{nil, errors.New("a"), errors.New("a"), errors.New("b"), nil, nil} {
		k.report(ctx, "checkpoint", err)
	}
	var got []string
	for _, entry := range logger.GetSink().(ktesting.Underlier).GetBuffer().Data() {
		got = append(got, fmt.Sprint(entry.Err))
	}
	if diff := cmp.Diff([]string{"a", "b", "<nil>"}, got); diff != "" {
		t.Errorf("errors in the log (-want +got):\n%s", diff)
	}
}
