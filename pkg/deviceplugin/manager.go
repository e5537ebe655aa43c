package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"weft.sh/weft/pkg/slot"
)

// Handler decides what the kubelet asks. Safe for concurrent use. Slots are sorted, one or more.
type Handler interface {
	// Allocate answers the qualified name of the CDI device for one container's slots. ctx ends after 10 s. An error fails the
	// pod for good, with the error's text.
	Allocate(ctx context.Context, r slot.Resource, slots []string) (cdiDevice string, err error)
	// PreStart returns when the container may be created. ctx ends a little before the kubelet gives up. The error's text
	// reaches the pod's events, and the kubelet tries again later. What the kubelet says who holds the slots may be wrong at first: it is
	// made to write its checkpoint anew for a PreStart that takes longer than a second.
	PreStart(ctx context.Context, r slot.Resource, slots []string) error
}

// Options of a [Manager].
type Options struct {
	// Dir is the kubelet's directory for device plugins; empty means where every kubelet has it.
	Dir string
	// Handler is required.
	Handler Handler
}

// times are the durations in which things are expected to happen.
type times struct {
	// poll is how often the directory is looked at, for the case that the watch missed something.
	poll time.Duration
	// register bounds one registration, in which the kubelet connects to the plugin (for which it takes 10 s at most).
	register time.Duration
	// watch is how soon a kubelet that registered a plugin asks for its devices.
	watch time.Duration
	// stable is how long a registration lasts that is not counted as a failure.
	stable time.Duration
	// settle is how long the kubelet is given to take the last list of a resource that is gone.
	settle time.Duration
	// stale is how long a PreStart may take before the kubelet's checkpoint is suspected; see server.PreStartContainer.
	stale time.Duration
	// first and most are the shortest and the longest pause between two attempts.
	first, most time.Duration
}

var defaultTimes = times{
	poll: 10 * time.Second, register: 20 * time.Second, watch: 30 * time.Second, stable: time.Minute, settle: time.Second,
	stale: time.Second, first: 200 * time.Millisecond, most: 30 * time.Second,
}

// backoff is the pauses between attempts, from the first on.
func (t times) backoff() wait.Backoff {
	return wait.Backoff{Duration: t.first, Factor: 2, Jitter: 0.25, Steps: 64, Cap: t.most}
}

// Manager keeps all resources registered with whatever kubelet there is. Safe for concurrent use.
type Manager struct {
	dir     string
	handler Handler
	times   times
	// changed says that Set was called or an endpoint ended. It has a buffer of one.
	changed chan struct{}

	mu        sync.Mutex
	offers    map[slot.Resource]map[string]bool
	endpoints map[slot.Resource]*endpoint
	complaint map[slot.Resource]string
}

// NewManager makes a manager that offers nothing; see Set and Run.
func NewManager(o Options) *Manager {
	if o.Dir == "" {
		o.Dir = pluginapi.DevicePluginPath
	}
	return &Manager{
		dir: o.Dir, handler: o.Handler, times: defaultTimes, changed: make(chan struct{}, 1),
		endpoints: map[slot.Resource]*endpoint{}, complaint: map[slot.Resource]string{},
	}
}

// Set says what is offered from now on: whether each slot is healthy, by resource and name. A resource that was not offered is
// registered; one that is no longer offered is withdrawn. Nil offers nothing. What cannot be offered is left out and logged: a
// name that is no name, and slots beyond the some 150,000 that fit into one message. It does not wait for the kubelet.
func (m *Manager) Set(offers map[slot.Resource]map[string]bool) {
	m.mu.Lock()
	m.offers = make(map[slot.Resource]map[string]bool, len(offers))
	for r, slots := range offers {
		m.offers[r] = maps.Clone(slots)
	}
	m.mu.Unlock()
	notify(m.changed)
}

// Registered is why each resource that is offered is not registered with a running kubelet, nil for those that are.
func (m *Manager) Registered() map[slot.Resource]error {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[slot.Resource]error, len(m.offers))
	for r := range m.offers {
		switch e := m.endpoints[r]; {
		case e == nil && m.complaint[r] != "":
			out[r] = errResource
		case e == nil || e.ending:
			out[r] = errStarting
		default:
			out[r] = e.state()
		}
	}
	return out
}

// Ready is nil when every resource that is offered is registered with a running kubelet.
func (m *Manager) Ready() error {
	var errs []error
	for r, err := range m.Registered() {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", ResourceName(r), err))
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// Run offers what Set says until ctx ends, and leaves no socket. Call it once. It returns an error only where it cannot begin.
func (m *Manager) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx).WithValues("directory", m.dir)
	if !filepath.IsAbs(m.dir) {
		return fmt.Errorf("directory for device plugins %q: want an absolute path", m.dir)
	}
	removeStale(logger, m.dir)

	var events <-chan fsnotify.Event
	var failures <-chan error
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		logger.Error(err, "No watch on the directory; looking at it every now and then", "interval", m.times.poll)
	} else {
		defer watcher.Close()
		events, failures = watcher.Events, watcher.Errors
	}
	poll := time.NewTicker(m.times.poll)
	defer poll.Stop()

	m.sync(ctx)
	watching := true // or never tried
	for look := true; ; {
		if look {
			if watcher != nil {
				// Adding it again does nothing, unless somebody removed the directory and made it anew.
				err := watcher.Add(m.dir)
				if err != nil && watching {
					logger.Error(err, "No watch on the directory yet; looking again every now and then", "interval", m.times.poll)
				}
				watching = err == nil
			}
			m.wakeAll()
			look = false
		}
		select {
		case <-ctx.Done():
			m.wait()
			return nil
		case <-m.changed:
			m.sync(ctx)
		case event := <-events:
			// The kubelet writes its checkpoint here for every pod; only sockets matter.
			if strings.HasSuffix(event.Name, socketSuffix) {
				m.wakeAll()
			}
		case err := <-failures:
			logger.Error(err, "Watching the directory")
			look = true
		case <-poll.C:
			look = true
		}
	}
}

// sync starts, changes and ends endpoints so that they are what is offered.
func (m *Manager) sync(ctx context.Context) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for r, e := range m.endpoints {
		if _, ok := m.offers[r]; !ok && !e.ending {
			e.logger.Info("Withdrawing the resource")
			e.ending = true
			e.feed.set(nil)
			close(e.gone)
		}
	}
	for r, slots := range m.offers {
		logger := klog.FromContext(ctx).WithValues("resource", ResourceName(r))
		list, err := deviceList(slots, maxList)
		named, ok := ParseResourceName(ResourceName(r))
		if ok = ok && named == r; !ok {
			err = fmt.Errorf("%w: %+v", errResource, r)
		}
		if text := fmt.Sprint(err); err != nil && m.complaint[r] != text {
			logger.Error(err, "Not all slots can be offered")
			m.complaint[r] = text
		} else if err == nil {
			delete(m.complaint, r)
		}
		if !ok {
			continue
		}
		switch e := m.endpoints[r]; {
		case e == nil:
			m.start(ctx, r, list, logger)
		case !e.ending: // otherwise it starts anew when it has ended
			e.feed.set(list)
		}
	}
}

// start keeps the resource registered from now on. The caller holds mu.
func (m *Manager) start(ctx context.Context, r slot.Resource, list []*pluginapi.Device, logger klog.Logger) {
	e := &endpoint{
		dir: m.dir, times: m.times, resource: r, handler: m.handler, feed: newFeed(list), logger: logger,
		wake: make(chan struct{}, 1), gone: make(chan struct{}), done: make(chan struct{}), err: errStarting,
	}
	m.endpoints[r] = e
	go func() {
		e.run(ctx)
		m.mu.Lock()
		// What ctx ended stays in the map for wait.
		if e.ending {
			delete(m.endpoints, r)
		}
		m.mu.Unlock()
		notify(m.changed)
	}()
}

// wait returns when no endpoint is left, after ctx ended.
func (m *Manager) wait() {
	m.mu.Lock()
	all := slices.Collect(maps.Values(m.endpoints))
	m.mu.Unlock()
	for _, e := range all {
		<-e.done
	}
}

func (m *Manager) wakeAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.endpoints {
		notify(e.wake)
	}
}

// notify puts a token into a channel with a buffer of one, unless there is one.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// removeStale removes the sockets of managers that are no more: killed ones leave theirs.
func removeStale(logger klog.Logger, dir string) {
	stale, _ := filepath.Glob(filepath.Join(dir, socketPrefix+"*"+socketSuffix))
	for _, path := range stale {
		conn, err := net.Dial("unix", path)
		switch {
		case err == nil:
			conn.Close() // of another manager
		case errors.Is(err, syscall.ECONNREFUSED):
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				logger.Error(err, "Removing a socket that nobody serves")
			}
		}
	}
}
