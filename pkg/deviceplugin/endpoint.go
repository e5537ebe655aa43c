package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"weft.sh/weft/pkg/slot"
)

// kubeletSocket is where the kubelet takes registrations, in its directory.
const kubeletSocket = "kubelet.sock"

// Why a resource is not registered.
var (
	errNoKubelet  = errors.New("no kubelet takes registrations")
	errNotWatched = errors.New("the kubelet registered the plugin but does not ask for its devices")
	errLost       = errors.New("the kubelet closed its connection")
	errRestarted  = errors.New("another kubelet takes registrations now")
	errRemoved    = errors.New("the plugin's socket was removed")
	errStarting   = errors.New("not registered yet")
	errStopped    = errors.New("no longer running")
	errResource   = errors.New("the kubelet has no name for the resource; want whole GPUs, shares or a MIG profile such as 1g.10gb")
)

// endpoint keeps one resource registered for as long as it is offered.
//
//	                 kubelet.sock is there            registered
//	┌─▶ waiting ─────────────────────────▶ serving ───────────────▶ registered ──┐
//	│                                         │ refused                          │ connection closed, own socket
//	│                                         ▼                                  ▼ removed, or another kubelet.sock
//	└─────────────────────────────────────  pause  ◀──────────────────────────────
//
// The server that was registered last runs on until the next one is: where the kubelet is the same, it never is without.
type endpoint struct {
	dir      string
	times    times
	resource slot.Resource
	handler  Handler
	feed     *feed
	logger   klog.Logger

	// wake says that something in the directory changed. It has a buffer of one.
	wake chan struct{}
	// gone is closed when the resource is no longer offered, done when nothing of the endpoint is left.
	gone, done chan struct{}
	ending     bool // gone is closed; the manager's

	mu  sync.Mutex
	err error // nil while registered
}

// state is nil while the resource is registered, and otherwise why not.
func (e *endpoint) state() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

func (e *endpoint) setState(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = err
}

// run returns when ctx ends or the resource is gone.
func (e *endpoint) run(ctx context.Context) {
	defer close(e.done)
	var current *server
	defer func() {
		e.setState(errStopped)
		if current == nil {
			return
		}
		current.stop()
		if ctx.Err() == nil {
			// The kubelet takes what two sockets of a resource send in any order, and the last word counts: nobody may offer the
			// resource anew before it has the empty list.
			pause(ctx, e.times.settle)
		}
	}()
	backoff := e.times.backoff()
	for {
		next, kubelet, err := e.register(ctx)
		if err == nil {
			if current != nil {
				current.stop()
			}
			current = next
			e.setState(nil)
			e.logger.Info("Registered with the kubelet", "socket", current.socket)
			since := time.Now()
			if err = e.watch(ctx, current, kubelet); time.Since(since) >= e.times.stable {
				backoff = e.times.backoff()
			}
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		e.setState(err)
		switch {
		case errors.Is(err, errRestarted):
			backoff = e.times.backoff()
			e.logger.Info("Registering again", "reason", err.Error())
			continue
		case errors.Is(err, errNoKubelet):
			e.logger.Info("Waiting for the kubelet", "reason", err.Error())
		default:
			e.logger.Error(err, "Not registered with the kubelet")
		}
		if !e.pause(ctx, kubelet, &backoff) {
			return
		}
	}
}

// register serves the resource on a new socket and tells the kubelet. It also returns what kubelet.sock was, nil when it was not.
func (e *endpoint) register(ctx context.Context) (_ *server, kubelet os.FileInfo, err error) {
	path := filepath.Join(e.dir, kubeletSocket)
	if kubelet, err = os.Stat(path); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errNoKubelet, err)
	}
	s, err := newServer(e.dir, e.resource, e.handler, e.feed, e.times.stale, e.logger)
	if err != nil {
		return nil, kubelet, err
	}
	defer func() {
		if err != nil {
			s.stop()
		}
	}()
	conn, err := dial(path)
	if err != nil {
		return nil, kubelet, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, e.times.register)
	defer cancel()
	_, err = pluginapi.NewRegistrationClient(conn).Register(ctx, &pluginapi.RegisterRequest{
		Version: pluginapi.Version, Endpoint: filepath.Base(s.socket), ResourceName: ResourceName(e.resource),
		Options: &pluginapi.DevicePluginOptions{PreStartRequired: true},
	})
	if err != nil {
		return nil, kubelet, fmt.Errorf("registering: %w", err)
	}
	return s, kubelet, nil
}

// dial is a connection to a socket. It is made when it is first used.
func dial(socket string, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	// The path stays out of the target, where some signs would have a meaning.
	return grpc.NewClient("passthrough:///localhost", append(opts,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}),
	)...)
}

// watch returns why the server is no longer registered, nil when ctx ended or the resource is gone.
func (e *endpoint) watch(ctx context.Context, s *server, kubelet os.FileInfo) error {
	watched := s.watched
	late := time.NewTimer(e.times.watch)
	defer late.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-e.gone:
			return nil
		case <-watched:
			watched = nil
			late.Stop()
		case <-late.C:
			return errNotWatched
		case <-s.lost:
			return errLost
		case <-e.wake:
			if _, err := os.Lstat(s.socket); errors.Is(err, os.ErrNotExist) {
				return errRemoved
			}
			if e.restarted(kubelet) {
				return errRestarted
			}
		}
	}
}

// restarted reports whether kubelet.sock is there and is not what it was, nil for nothing. While it is missing, the kubelet that
// holds a connection may well go on with it.
func (e *endpoint) restarted(was os.FileInfo) bool {
	is, err := os.Stat(filepath.Join(e.dir, kubeletSocket))
	if err != nil {
		return false
	}
	return was == nil || !os.SameFile(was, is) || !was.ModTime().Equal(is.ModTime())
}

// pause waits before the next attempt: without a kubelet until there is one, otherwise for the next step of the backoff or until
// there is another kubelet. It reports false when there shall be no other attempt.
func (e *endpoint) pause(ctx context.Context, kubelet os.FileInfo, backoff *wait.Backoff) bool {
	var over <-chan time.Time
	if kubelet != nil {
		timer := time.NewTimer(backoff.Step())
		defer timer.Stop()
		over = timer.C
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-e.gone:
			return false
		case <-over:
			return true
		case <-e.wake:
			if e.restarted(kubelet) {
				*backoff = e.times.backoff()
				return true
			}
		}
	}
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
