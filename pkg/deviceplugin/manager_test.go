package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/slot"
)

var (
	whole  = slot.Resource{Kind: gpu.Whole}
	shared = slot.Resource{Kind: gpu.Shared}
	mig    = slot.Resource{Kind: gpu.MIG, Profile: "1g.10gb+me"}
)

const (
	healthy   = pluginapi.Healthy
	unhealthy = pluginapi.Unhealthy
)

func offerOf(r slot.Resource, slots map[string]bool) map[slot.Resource]map[string]bool {
	return map[slot.Resource]map[string]bool{r: slots}
}

// awaitReady waits until everything is registered, or is not, as wanted.
func awaitReady(t *testing.T, m *Manager, want bool) {
	t.Helper()
	late := time.After(longWait)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		err := m.Ready()
		if (err == nil) == want {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("Ready is still %v", err)
		}
	}
}

func TestOffersReachTheKubelet(t *testing.T) {
	dir := shortDir(t)
	k := startKubelet(t, dir, nil)
	m, stop := startManager(t, dir, answers{}, testTimes)
	if err := m.Ready(); err != nil {
		t.Errorf("Ready with nothing offered: %v", err)
	}

	m.Set(map[slot.Resource]map[string]bool{
		whole: {"gpu-0": true, "gpu-1": false},
		mig:   {"1g.10gb+me-0": true},
	})
	first := k.awaitList("nvidia.com/gpu", map[string]string{"gpu-0": healthy, "gpu-1": unhealthy})
	k.awaitList("nvidia.com/mig-1g.10gb.me", map[string]string{"1g.10gb+me-0": healthy})
	if diff := cmp.Diff(true, first.options.PreStartRequired); diff != "" {
		t.Errorf("PreStartRequired (-want +got):\n%s", diff)
	}
	if first.options.GetPreferredAllocationAvailable {
		t.Error("the plugin offers GetPreferredAllocation")
	}
	awaitReady(t, m, true)
	if diff := cmp.Diff(map[slot.Resource]error{whole: nil, mig: nil}, m.Registered()); diff != "" {
		t.Errorf("Registered (-want +got):\n%s", diff)
	}

	// A change of health goes out on the same connection; what is gone is withdrawn before its server stops.
	m.Set(offerOf(whole, map[string]bool{"gpu-0": true, "gpu-1": true}))
	if p := k.awaitList("nvidia.com/gpu", map[string]string{"gpu-0": healthy, "gpu-1": healthy}); p != first {
		t.Error("a change of health came from another registration")
	}
	gone := k.awaitList("nvidia.com/mig-1g.10gb.me", map[string]string{})
	k.await("the end of the MIG plugin", func() bool { return gone.over })

	// It comes back.
	m.Set(offerOf(mig, map[string]bool{"1g.10gb+me-0": true}))
	if p := k.awaitList("nvidia.com/mig-1g.10gb.me", map[string]string{"1g.10gb+me-0": healthy}); p == gone || p.endpoint == gone.endpoint {
		t.Errorf("it came back on the socket %s that the kubelet knew before", p.endpoint)
	}

	// Nothing at all.
	m.Set(nil)
	k.awaitList("nvidia.com/mig-1g.10gb.me", map[string]string{})
	k.await("the end of all plugins", func() bool {
		for _, p := range k.plugins {
			if !p.over {
				return false
			}
		}
		return true
	})

	m.Set(offerOf(whole, map[string]bool{"gpu-0": true}))
	last := k.awaitList("nvidia.com/gpu", map[string]string{"gpu-0": healthy})
	stop()
	k.await("the end of the connection", func() bool { return last.over })
	if n := len(last.lists); n != 1 {
		t.Errorf("a manager that ends sent %d lists; want 1, for its slots are not gone", n)
	}
	if got := sockets(t, dir); len(got) != 1 || filepath.Base(got[0]) != kubeletSocket {
		t.Errorf("sockets afterwards: %q; want only the kubelet's", got)
	}
	if m.Ready() == nil {
		t.Error("Ready is nil after the end")
	}
}

func TestResourceWithoutAName(t *testing.T) {
	dir := shortDir(t)
	k := startKubelet(t, dir, nil)
	m, _ := startManager(t, dir, answers{}, testTimes)
	odd := slot.Resource{Kind: gpu.MIG, Profile: "../1g.10gb"}
	m.Set(map[slot.Resource]map[string]bool{odd: {"a": true}, whole: {"gpu-0": true}})
	k.awaitList("nvidia.com/gpu", map[string]string{"gpu-0": healthy})
	if err := m.Registered()[odd]; !errors.Is(err, errResource) {
		t.Errorf("%+v: %v; want %v", odd, err, errResource)
	}
	if err := m.Ready(); !errors.Is(err, errResource) {
		t.Errorf("Ready is %v", err)
	}
	if len(k.plugins) != 1 {
		t.Errorf("%d plugins registered; want one", len(k.plugins))
	}
}

func TestWithdrawnAndOfferedAgainAtOnce(t *testing.T) {
	dir := shortDir(t)
	k := startKubelet(t, dir, nil)
	m, _ := startManager(t, dir, answers{}, testTimes)
	m.Set(offerOf(whole, map[string]bool{"gpu-0": true}))
	k.awaitList("nvidia.com/gpu", map[string]string{"gpu-0": healthy})
	for range 20 {
		m.Set(nil)
		m.Set(offerOf(whole, map[string]bool{"gpu-0": true, "gpu-1": true}))
		m.Set(nil)
		m.Set(offerOf(whole, map[string]bool{"gpu-0": true}))
	}
	k.awaitList("nvidia.com/gpu", map[string]string{"gpu-0": healthy})
	awaitReady(t, m, true)
}

func TestKubeletComesAndGoes(t *testing.T) {
	want := map[string]string{"gpu-0": healthy}
	for name, test := range map[string]struct {
		end func(*fakeKubelet)
	}{
		"it stops and removes its socket":     {(*fakeKubelet).stop},
		"it is killed and its socket is left": {(*fakeKubelet).kill},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			m, _ := startManager(t, dir, answers{}, testTimes)
			m.Set(offerOf(whole, map[string]bool{"gpu-0": true}))
			awaitReady(t, m, false)
			for range 3 {
				k := startKubelet(t, dir, nil)
				k.awaitList("nvidia.com/gpu", want)
				awaitReady(t, m, true)
				test.end(k)
				awaitReady(t, m, false)
			}
		})
	}

	t.Run("its socket vanishes and another kubelet takes over while the first still holds connections", func(t *testing.T) {
		dir := shortDir(t)
		m, _ := startManager(t, dir, answers{}, testTimes)
		m.Set(offerOf(whole, map[string]bool{"gpu-0": true}))
		old := startKubelet(t, dir, nil)
		p := old.awaitList("nvidia.com/gpu", want)
		if err := os.Remove(filepath.Join(dir, kubeletSocket)); err != nil {
			t.Fatal(err)
		}
		startKubelet(t, dir, nil).awaitList("nvidia.com/gpu", want)
		old.await("the end of the old connection", func() bool { return p.over })
	})

	t.Run("the directory is made later, and removed and made again", func(t *testing.T) {
		dir := filepath.Join(shortDir(t), "device-plugins")
		looking := testTimes
		looking.poll = 5 * time.Millisecond
		m, _ := startManager(t, dir, answers{}, looking)
		m.Set(offerOf(whole, map[string]bool{"gpu-0": true}))
		awaitReady(t, m, false)
		for range 2 {
			if err := os.Mkdir(dir, 0o750); err != nil {
				t.Fatal(err)
			}
			k := startKubelet(t, dir, nil)
			k.awaitList("nvidia.com/gpu", want)
			k.kill()
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestRegistrationRefused(t *testing.T) {
	dir := shortDir(t)
	refused := startKubelet(t, dir, status.Error(codes.Unknown, "the ResourceName is invalid"))
	never := testTimes
	never.first, never.most = time.Hour, time.Hour
	m, _ := startManager(t, dir, answers{}, never)
	m.Set(offerOf(whole, map[string]bool{"gpu-0": true}))
	refused.await("an attempt", func() bool { return refused.attempts == 1 })
	late := time.After(longWait)
	for !strings.Contains(fmt.Sprint(m.Ready()), "the ResourceName is invalid") {
		select {
		case <-late:
			t.Fatalf("Ready does not say why: %v", m.Ready())
		case <-time.Tick(time.Millisecond):
		}
	}
	if got := sockets(t, dir); len(got) != 1 {
		t.Errorf("sockets after a refusal: %q; want only the kubelet's", got)
	}
	// Something else in the directory is no reason to try again, another kubelet is.
	if l, err := net.Listen("unix", filepath.Join(dir, "other.sock")); err != nil {
		t.Fatal(err)
	} else {
		defer l.Close()
	}
	startKubelet(t, dir, nil).awaitList("nvidia.com/gpu", map[string]string{"gpu-0": healthy})
	if refused.attempts != 1 {
		t.Errorf("the kubelet that refused was asked %d times within its pause; want once", refused.attempts)
	}
}

func TestRegistrationFailsUntilItDoesNot(t *testing.T) {
	dir := shortDir(t)
	k := startKubelet(t, dir, status.Error(codes.Unavailable, "not now"))
	m, _ := startManager(t, dir, answers{}, testTimes)
	m.Set(offerOf(whole, map[string]bool{"gpu-0": true}))
	k.await("five attempts", func() bool {
		if k.attempts >= 5 {
			k.refuse = nil
		}
		return k.refuse == nil
	})
	k.awaitList("nvidia.com/gpu", map[string]string{"gpu-0": healthy})
}

func TestKubeletRegistersButDoesNotListen(t *testing.T) {
	dir := shortDir(t)
	k := startKubelet(t, dir, nil)
	k.deaf = true
	impatient := testTimes
	impatient.watch = time.Millisecond
	m, _ := startManager(t, dir, answers{}, impatient)
	m.Set(offerOf(whole, map[string]bool{"gpu-0": true}))
	k.await("a second attempt", func() bool { return k.attempts >= 2 })
}

func TestPluginIsLostByTheKubelet(t *testing.T) {
	want := map[string]string{"gpu-0": healthy}
	dir := shortDir(t)
	k := startKubelet(t, dir, nil)
	m, _ := startManager(t, dir, answers{}, testTimes)
	m.Set(offerOf(whole, map[string]bool{"gpu-0": true}))

	p := k.awaitList("nvidia.com/gpu", want)
	p.conn.Close()
	k.await("another registration", func() bool { return k.attempts == 2 })
	p = k.awaitList("nvidia.com/gpu", want)

	// Somebody tidies up. The kubelet is never without a plugin: when the old one ends it has listed the new one's devices, or
	// is about to.
	if err := os.Remove(filepath.Join(dir, p.endpoint)); err != nil {
		t.Fatal(err)
	}
	k.await("another registration", func() bool {
		if p.over && k.newest("nvidia.com/gpu") == p {
			t.Error("the old plugin ended before the new one was registered")
			return true
		}
		return p.over
	})
	k.awaitList("nvidia.com/gpu", want)
	awaitReady(t, m, true)
}

func TestTwoManagersOnOneDirectory(t *testing.T) {
	want := map[string]string{"gpu-0": healthy}
	dir := shortDir(t)
	k := startKubelet(t, dir, nil)
	a, _ := startManager(t, dir, answers{}, testTimes)
	a.Set(offerOf(whole, map[string]bool{"gpu-0": true}))
	old := k.awaitList("nvidia.com/gpu", want)

	b, stop := startManager(t, dir, answers{}, testTimes)
	b.Set(offerOf(whole, map[string]bool{"gpu-0": true}))
	k.await("both registrations", func() bool { return k.attempts == 2 })
	last := k.awaitList("nvidia.com/gpu", want)
	awaitReady(t, a, true)
	awaitReady(t, b, true)

	stop()
	k.await("the end of the second", func() bool { return last.over })
	k.mu.Lock()
	defer k.mu.Unlock()
	if old.over || k.attempts != 2 {
		t.Errorf("the first manager lost its connection: %v, registrations %d; want it undisturbed", old.over, k.attempts)
	}
}

func TestStaleSocketsAreRemoved(t *testing.T) {
	dir := shortDir(t)
	stale := filepath.Join(dir, "weft-gpu-00000000.sock")
	live := filepath.Join(dir, "weft-gpu-00000001.sock")
	foreign := filepath.Join(dir, "nvidia-gpu.sock")
	var listeners []*net.UnixListener
	for _, path := range []string{stale, live, foreign} {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		ul := l.(*net.UnixListener)
		ul.SetUnlinkOnClose(false)
		listeners = append(listeners, ul)
	}
	listeners[0].Close()
	listeners[2].Close()
	defer listeners[1].Close()

	_, stop := startManager(t, dir, answers{}, testTimes)
	stop()
	if diff := cmp.Diff([]string{foreign, live}, sockets(t, dir)); diff != "" {
		t.Errorf("sockets (-want +got):\n%s", diff)
	}
}

func TestRunRefusesARelativeDirectory(t *testing.T) {
	if err := NewManager(Options{Dir: "plugins"}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), `"plugins"`) {
		t.Errorf("got %v; want an error that names the directory", err)
	}
}

func TestMoreSlotsThanOneMessageHolds(t *testing.T) {
	dir := shortDir(t)
	k := startKubelet(t, dir, nil)
	m, _ := startManager(t, dir, answers{}, testTimes)
	slots := map[string]bool{}
	for i := range 60_000 {
		slots[fmt.Sprintf("%063d", i)] = true
	}
	m.Set(offerOf(shared, slots))
	k.await("a list", func() bool {
		p := k.newest("weft.sh/gpu-percent")
		return p != nil && len(p.lists) > 0
	})
	k.mu.Lock()
	defer k.mu.Unlock()
	list := k.newest("weft.sh/gpu-percent").lists[0]
	if n := len(list); n < 50_000 || n == len(slots) {
		t.Errorf("%d slots reached the kubelet; want as many as 4 MiB hold", n)
	}
	if _, ok := list[fmt.Sprintf("%063d", 0)]; !ok {
		t.Error("the first slot is missing")
	}
}

func TestCallsReachTheHandler(t *testing.T) {
	dir := shortDir(t)
	k := startKubelet(t, dir, nil)
	deadlines := make(chan time.Duration, 2)
	note := func(ctx context.Context) {
		d, _ := ctx.Deadline()
		deadlines <- time.Until(d)
	}
	m, _ := startManager(t, dir, answers{
		allocate: func(ctx context.Context, r slot.Resource, slots []string) (string, error) {
			if slots[0] == "share-9" {
				return "", errors.New("the disk is full")
			}
			return fmt.Sprintf("%s=%s.%s", slot.CDIKind, r, strings.Join(slots, ".")), nil
		},
		preStart: func(ctx context.Context, r slot.Resource, slots []string) error {
			note(ctx)
			if slots[0] == "share-9" {
				return fmt.Errorf("refused: %w", slot.ErrUnassigned)
			}
			if diff := cmp.Diff([]string{"share-1", "share-2"}, slots); diff != "" || r != shared {
				return fmt.Errorf("%s: %s", r, diff)
			}
			return nil
		},
	}, testTimes)
	m.Set(offerOf(shared, map[string]bool{"share-1": true}))
	p := k.awaitList("weft.sh/gpu-percent", map[string]string{"share-1": healthy})

	t.Run("Allocate answers each container, slots sorted", func(t *testing.T) {
		got, err := p.client.Allocate(t.Context(), &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{
			{DevicesIds: []string{"share-2", "share-1", "share-2"}}, {DevicesIds: []string{"share-3"}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, c := range got.ContainerResponses {
			for _, d := range c.CdiDevices {
				names = append(names, d.Name)
			}
		}
		if diff := cmp.Diff([]string{"weft.sh/slot=share.share-1.share-2", "weft.sh/slot=share.share-3"}, names); diff != "" {
			t.Errorf("CDI devices (-want +got):\n%s", diff)
		}
	})
	t.Run("an error of Allocate has its text", func(t *testing.T) {
		_, err := p.client.Allocate(t.Context(), &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{
			{DevicesIds: []string{"share-1"}}, {DevicesIds: []string{"share-9"}},
		}})
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "the disk is full") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a request for nothing is refused", func(t *testing.T) {
		_, err := p.client.Allocate(t.Context(), &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{{}}})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("Allocate: %v", err)
		}
		if _, err := p.client.PreStartContainer(t.Context(), &pluginapi.PreStartContainerRequest{}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("PreStartContainer: %v", err)
		}
	})
	t.Run("PreStart has a little less time than the kubelet gives it", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if _, err := p.client.PreStartContainer(ctx, &pluginapi.PreStartContainerRequest{DevicesIds: []string{"share-2", "share-1"}}); err != nil {
			t.Error(err)
		}
		if left := <-deadlines; left > 28*time.Second || left <= 0 {
			t.Errorf("the handler has %v; want at most 28 s of 30 s", left)
		}
		if _, err := p.client.PreStartContainer(t.Context(), &pluginapi.PreStartContainerRequest{DevicesIds: []string{"share-2", "share-1"}}); err != nil {
			t.Error(err)
		}
		if left := <-deadlines; left > 28*time.Second || left <= 0 {
			t.Errorf("without a deadline of the kubelet the handler has %v; want at most 28 s", left)
		}
	})
	t.Run("a refusal of PreStart has its text", func(t *testing.T) {
		_, err := p.client.PreStartContainer(t.Context(), &pluginapi.PreStartContainerRequest{DevicesIds: []string{"share-9"}})
		<-deadlines
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), slot.ErrUnassigned.Error()) {
			t.Errorf("got %v", err)
		}
	})
}

func TestCallsUnderWayAreAnswered(t *testing.T) {
	dir := shortDir(t)
	k := startKubelet(t, dir, nil)
	entered, leave := make(chan struct{}), make(chan struct{})
	m, stop := startManager(t, dir, answers{preStart: func(context.Context, slot.Resource, []string) error {
		close(entered)
		<-leave
		return nil
	}}, testTimes)
	m.Set(offerOf(whole, map[string]bool{"gpu-0": true}))
	p := k.awaitList("nvidia.com/gpu", map[string]string{"gpu-0": healthy})
	answered := make(chan error, 1)
	go func() {
		_, err := p.client.PreStartContainer(context.Background(), &pluginapi.PreStartContainerRequest{DevicesIds: []string{"gpu-0"}})
		answered <- err
	}()
	<-entered
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	// The socket is there and answers for as long as it is waited for.
	late := time.After(longWait)
	for m.Ready() == nil {
		select {
		case <-time.Tick(time.Millisecond):
		case <-late:
			t.Fatal("the manager does not end")
		}
	}
	if _, err := p.client.Allocate(t.Context(), &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{
		{DevicesIds: []string{"gpu-0"}},
	}}); err != nil {
		t.Errorf("a call while the manager ends: %v", err)
	}
	close(leave)
	if err := <-answered; err != nil {
		t.Errorf("a call that was under way when the manager ended: %v", err)
	}
	<-stopped
}

func TestCallsThatWaitEndWithTheManager(t *testing.T) {
	dir := shortDir(t)
	k := startKubelet(t, dir, nil)
	entered := make(chan struct{})
	m, stop := startManager(t, dir, answers{preStart: func(ctx context.Context, _ slot.Resource, _ []string) error {
		close(entered)
		<-ctx.Done()
		return fmt.Errorf("waiting for the pod's assignment: %w", ctx.Err())
	}}, testTimes)
	m.Set(offerOf(whole, map[string]bool{"gpu-0": true}))
	p := k.awaitList("nvidia.com/gpu", map[string]string{"gpu-0": healthy})
	answered := make(chan error, 1)
	go func() {
		_, err := p.client.PreStartContainer(context.Background(), &pluginapi.PreStartContainerRequest{DevicesIds: []string{"gpu-0"}})
		answered <- err
	}()
	<-entered
	stop()
	if err := <-answered; status.Code(err) != codes.Canceled || !strings.Contains(err.Error(), "waiting for the pod's assignment") {
		t.Errorf("a call that waited when the manager ended: %v; want the handler's own error", err)
	}
}

func TestSlowPreStartMakesTheKubeletWriteItsCheckpoint(t *testing.T) {
	dir := shortDir(t)
	k := startKubelet(t, dir, nil)
	leave := make(chan struct{})
	soon := testTimes
	soon.stale = time.Millisecond
	m, _ := startManager(t, dir, answers{preStart: func(context.Context, slot.Resource, []string) error {
		<-leave
		return nil
	}}, soon)
	m.Set(offerOf(whole, map[string]bool{"gpu-0": true}))
	p := k.awaitList("nvidia.com/gpu", map[string]string{"gpu-0": healthy})
	answered := make(chan error, 1)
	go func() {
		_, err := p.client.PreStartContainer(context.Background(), &pluginapi.PreStartContainerRequest{DevicesIds: []string{"gpu-0"}})
		answered <- err
	}()
	k.await("the list again", func() bool { return len(p.lists) == 2 })
	if diff := cmp.Diff(p.lists[0], p.lists[1]); diff != "" {
		t.Errorf("the second list (-first +second):\n%s", diff)
	}
	close(leave)
	if err := <-answered; err != nil {
		t.Error(err)
	}
}

func TestListIsSentAgainAtMostOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFeed(nil)
		sent := 0
		for range 100 {
			_, changed := f.get()
			f.resend(time.Second)
			select {
			case <-changed:
				sent++
			default:
			}
			time.Sleep(100 * time.Millisecond) // the bubble's clock
		}
		if sent != 10 {
			t.Errorf("sent again %d times in 10 s; want 10", sent)
		}
	})
}

func TestBackoffGrowsAndIsBounded(t *testing.T) {
	b := defaultTimes.backoff()
	var last time.Duration
	for range 100 {
		d := b.Step()
		if d < defaultTimes.first || d > defaultTimes.most+defaultTimes.most/4 {
			t.Fatalf("pause of %v; want between %v and %v and a quarter", d, defaultTimes.first, defaultTimes.most)
		}
		last = d
	}
	if last < defaultTimes.most {
		t.Errorf("the hundredth pause is %v; want at least %v", last, defaultTimes.most)
	}
}
