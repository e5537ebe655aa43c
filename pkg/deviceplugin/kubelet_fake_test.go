package deviceplugin

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"weft.sh/weft/pkg/slot"
)

// longWait is how long a test waits for what should happen in milliseconds. It only ends tests that fail.
const longWait = 30 * time.Second

// plugin is a connection that the fake kubelet holds to a device plugin.
type plugin struct {
	endpoint, resource string
	options            *pluginapi.DevicePluginOptions
	client             pluginapi.DevicePluginClient
	conn               *grpc.ClientConn
	lists              []map[string]string // all that it sent: health by device
	over               bool                // the stream ended
}

// fakeKubelet takes registrations as a kubelet does: it connects to the plugin before it answers, and then watches its devices.
type fakeKubelet struct {
	pluginapi.UnimplementedRegistrationServer
	t      *testing.T
	dir    string
	server *grpc.Server

	mu       sync.Mutex
	changed  chan struct{} // closed at every change
	refuse   error
	deaf     bool // registers, but does not ask for devices
	attempts int
	plugins  []*plugin // in the order of registration
}

// kubelets counts the kubelets that were started.
var kubelets atomic.Int64

// startKubelet starts a kubelet as a kubelet starts: without the sockets of the one before.
func startKubelet(t *testing.T, dir string, refuse error) *fakeKubelet {
	t.Helper()
	for _, path := range sockets(t, dir) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	// Moved into place with a time of its own: unlike real kubelets, two of a test may begin within one tick of the file system's
	// clock.
	made := filepath.Join(dir, "made")
	listener, err := net.Listen("unix", made)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(made, time.Time{}, time.Unix(kubelets.Add(1), 0)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(made, filepath.Join(dir, kubeletSocket)); err != nil {
		t.Fatal(err)
	}
	k := &fakeKubelet{t: t, dir: dir, server: grpc.NewServer(), changed: make(chan struct{}), refuse: refuse}
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // stop decides
	pluginapi.RegisterRegistrationServer(k.server, k)
	go k.server.Serve(listener)
	t.Cleanup(k.kill)
	return k
}

// kill ends the kubelet without any goodbye: its socket stays behind.
func (k *fakeKubelet) kill() {
	k.server.Stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, p := range k.plugins {
		p.conn.Close()
	}
}

// stop ends it with its socket removed.
func (k *fakeKubelet) stop() {
	os.Remove(filepath.Join(k.dir, kubeletSocket))
	k.kill()
}

func (k *fakeKubelet) Register(ctx context.Context, r *pluginapi.RegisterRequest) (*pluginapi.Empty, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.notify()
	k.attempts++
	if k.refuse != nil {
		return nil, k.refuse
	}
	if r.Version != pluginapi.Version {
		return nil, status.Errorf(codes.InvalidArgument, "version %q", r.Version)
	}
	conn, err := dial(filepath.Join(k.dir, r.Endpoint))
	if err != nil {
		return nil, err
	}
	p := &plugin{endpoint: r.Endpoint, resource: r.ResourceName, conn: conn, client: pluginapi.NewDevicePluginClient(conn)}
	if p.options, err = p.client.GetDevicePluginOptions(ctx, &pluginapi.Empty{}); err != nil {
		return nil, err
	}
	k.plugins = append(k.plugins, p)
	if !k.deaf {
		go k.watch(p)
	}
	return &pluginapi.Empty{}, nil
}

func (k *fakeKubelet) watch(p *plugin) {
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		p.over = true
		k.notify()
	}()
	stream, err := p.client.ListAndWatch(context.Background(), &pluginapi.Empty{})
	if err != nil {
		return
	}
	for {
		answer, err := stream.Recv()
		if err != nil {
			// As the kubelet does; without it the plugin would not know.
			p.conn.Close()
			return
		}
		list := map[string]string{}
		for _, d := range answer.Devices {
			list[d.ID] = d.Health
		}
		k.mu.Lock()
		p.lists = append(p.lists, list)
		k.notify()
		k.mu.Unlock()
	}
}

// notify wakes await. The caller holds mu.
func (k *fakeKubelet) notify() {
	close(k.changed)
	k.changed = make(chan struct{})
}

// await waits until ok, which may look at everything in the kubelet.
func (k *fakeKubelet) await(what string, ok func() bool) {
	k.t.Helper()
	late := time.After(longWait)
	for {
		k.mu.Lock()
		done, changed := ok(), k.changed
		k.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-late:
			k.t.Fatalf("still not: %s", what)
		}
	}
}

// awaitList waits until the newest plugin of the resource says this of its devices, and returns it.
func (k *fakeKubelet) awaitList(resource string, want map[string]string) *plugin {
	k.t.Helper()
	var found *plugin
	k.await("the devices of "+resource, func() bool {
		found = k.newest(resource)
		return found != nil && len(found.lists) > 0 && maps.Equal(found.lists[len(found.lists)-1], want)
	})
	return found
}

// newest is the plugin of the resource that registered last. The caller holds mu.
func (k *fakeKubelet) newest(resource string) *plugin {
	for _, p := range slices.Backward(k.plugins) {
		if p.resource == resource {
			return p
		}
	}
	return nil
}

// sockets are the paths of the sockets in dir, sorted.
func sockets(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*"+socketSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// answers is a Handler that does what the functions say; nil does nothing.
type answers struct {
	allocate func(ctx context.Context, r slot.Resource, slots []string) (string, error)
	preStart func(ctx context.Context, r slot.Resource, slots []string) error
}

func (a answers) Allocate(ctx context.Context, r slot.Resource, slots []string) (string, error) {
	if a.allocate == nil {
		return "", nil
	}
	return a.allocate(ctx, r, slots)
}

func (a answers) PreStart(ctx context.Context, r slot.Resource, slots []string) error {
	if a.preStart == nil {
		return nil
	}
	return a.preStart(ctx, r, slots)
}

// testTimes pauses so short that a test does not notice, and never falls back on looking.
var testTimes = times{
	poll: time.Hour, register: longWait, watch: longWait, stable: time.Hour, settle: time.Millisecond, stale: time.Hour,
	first: time.Millisecond, most: 10 * time.Millisecond,
}

// startManager runs a manager over dir. The function it returns ends it and waits.
func startManager(t *testing.T, dir string, h Handler, tm times) (*Manager, func()) {
	t.Helper()
	m := NewManager(Options{Dir: dir, Handler: h})
	m.times = tm
	// Not the test's own context: that ends before what the test cleans up.
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return m, stop
}

// shortDir is a temporary directory whose path leaves room for the name of a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
