package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"weft.sh/weft/pkg/slot"
)

const (
	// preStartLimit is the kubelet's for PreStartContainer; preStartMargin of it is left for the answer to arrive.
	preStartLimit  = pluginapi.KubeletPreStartContainerRPCTimeoutInSecs * time.Second
	preStartMargin = 2 * time.Second
	// allocateLimit is ours: the kubelet would wait for ever, and admits no other pod meanwhile.
	allocateLimit = 10 * time.Second
	// drain is how long calls that are under way may go on when a server stops; those that wait for something would wait longer,
	// and are ended. flush is for the last answers and lists to leave.
	drain = 2 * time.Second
	flush = time.Second

	socketPrefix = "weft-"
	socketSuffix = ".sock"
)

// server is the device plugin of one resource on one socket.
type server struct {
	pluginapi.UnimplementedDevicePluginServer

	resource slot.Resource
	handler  Handler
	feed     *feed
	// stale is after which time a PreStart has the kubelet write its checkpoint anew.
	stale  time.Duration
	logger klog.Logger

	socket string
	grpc   *grpc.Server
	// served is closed when the server no longer accepts connections.
	served chan struct{}
	// stopping is closed to end the streams, calling ends to end the calls.
	stopping chan struct{}
	calling  context.Context
	hangUp   context.CancelFunc

	// watched is closed when the kubelet first asks for the devices, lost when it then hangs up.
	watched, lost chan struct{}

	mu             sync.Mutex
	streams, calls int
	// idle is closed when no call is under way; nil unless somebody waits for it.
	idle chan struct{}
}

// newServer serves the resource on a new socket in dir.
func newServer(dir string, r slot.Resource, h Handler, f *feed, stale time.Duration, logger klog.Logger) (*server, error) {
	// The name is for people who look into the directory, the number makes it unique. A file that exists is an error, and the
	// next attempt takes another number.
	name := fmt.Sprintf("%s%s-%08x%s", socketPrefix, strings.ReplaceAll(r.String(), "+", "."), rand.Uint32(), socketSuffix)
	socket := filepath.Join(dir, name)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listening for the kubelet: %w", err)
	}
	s := &server{
		resource: r, handler: h, feed: f, stale: stale, logger: logger, socket: socket,
		served: make(chan struct{}), stopping: make(chan struct{}), watched: make(chan struct{}), lost: make(chan struct{}),
	}
	s.calling, s.hangUp = context.WithCancel(context.Background())
	s.grpc = grpc.NewServer(grpc.StatsHandler(callCounter{s}))
	pluginapi.RegisterDevicePluginServer(s.grpc, s)
	go func() {
		defer close(s.served)
		if err := s.grpc.Serve(listener); err != nil {
			logger.Error(err, "Serving the kubelet", "socket", socket)
		}
	}()
	return s, nil
}

// stop ends the calls, then the streams, and removes the socket. Call it once.
func (s *server) stop() {
	s.mu.Lock()
	idle := make(chan struct{})
	if s.idle = idle; s.calls == 0 {
		close(idle)
		s.idle = nil
	}
	s.mu.Unlock()
	if !within(drain, idle) {
		s.hangUp()
		within(flush, idle)
	}
	s.hangUp()
	// Not before: a kubelet whose stream ends closes the connection, under the calls as well.
	close(s.stopping)
	force := time.AfterFunc(flush, s.grpc.Stop)
	s.grpc.GracefulStop()
	force.Stop()
	<-s.served
}

// within reports whether done is closed before the time has passed.
func within(d time.Duration, done <-chan struct{}) bool {
	late := time.NewTimer(d)
	defer late.Stop()
	select {
	case <-done:
		return true
	case <-late.C:
		return false
	}
}

// callCounter counts the calls of a server that are under way, but for the streams. Only gRPC knows when an answer has left.
type callCounter struct{ *server }

type isStream struct{}

// TagRPC implements stats.Handler.
func (callCounter) TagRPC(ctx context.Context, i *stats.RPCTagInfo) context.Context {
	if i.FullMethodName == pluginapi.DevicePlugin_ListAndWatch_FullMethodName {
		return context.WithValue(ctx, isStream{}, true)
	}
	return ctx
}

// HandleRPC implements stats.Handler.
func (c callCounter) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if ctx.Value(isStream{}) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch s.(type) {
	case *stats.Begin:
		c.calls++
	case *stats.End:
		if c.calls--; c.calls == 0 && c.idle != nil {
			close(c.idle)
			c.idle = nil
		}
	}
}

// TagConn implements stats.Handler.
func (callCounter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (callCounter) HandleConn(context.Context, stats.ConnStats) {}

// GetDevicePluginOptions implements the device plugin.
func (s *server) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return &pluginapi.DevicePluginOptions{PreStartRequired: true}, nil
}

// ListAndWatch implements the device plugin: the devices now, and again whenever they change.
func (s *server) ListAndWatch(_ *pluginapi.Empty, stream grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	s.hold()
	defer s.release()
	for {
		list, changed := s.feed.get()
		if err := stream.Send(&pluginapi.ListAndWatchResponse{Devices: list}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil
		case <-s.stopping:
			// A resource that is withdrawn sends its empty list as its last.
			select {
			case <-changed:
				list, _ = s.feed.get()
				return stream.Send(&pluginapi.ListAndWatchResponse{Devices: list})
			default:
				return nil
			}
		}
	}
}

func (s *server) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams++
	closeOnce(s.watched)
}

func (s *server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams--; s.streams == 0 {
		closeOnce(s.lost)
	}
}

// closeOnce closes a channel that only its caller closes, unless it is closed.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// Allocate implements the device plugin. The kubelet asks for one container at a time, the protocol allows several.
func (s *server) Allocate(ctx context.Context, req *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	ctx, cancel := context.WithTimeout(klog.NewContext(ctx, s.logger), allocateLimit)
	defer cancel()
	defer context.AfterFunc(s.calling, cancel)()
	out := &pluginapi.AllocateResponse{}
	for _, c := range req.GetContainerRequests() {
		slots, err := sortedSlots(c.GetDevicesIds())
		if err != nil {
			return nil, err
		}
		device, err := s.handler.Allocate(ctx, s.resource, slots)
		if err != nil {
			s.logger.Error(err, "Refused to allocate", "slots", len(slots), "first", slots[0])
			return nil, refusal(err)
		}
		s.logger.V(4).Info("Allocated", "slots", len(slots), "first", slots[0], "cdiDevice", device)
		out.ContainerResponses = append(out.ContainerResponses,
			&pluginapi.ContainerAllocateResponse{CdiDevices: []*pluginapi.CDIDevice{{Name: device}}})
	}
	return out, nil
}

// PreStartContainer implements the device plugin.
func (s *server) PreStartContainer(ctx context.Context, req *pluginapi.PreStartContainerRequest) (*pluginapi.PreStartContainerResponse, error) {
	slots, err := sortedSlots(req.GetDevicesIds())
	if err != nil {
		return nil, err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(preStartLimit)
	}
	ctx, cancel := context.WithDeadline(klog.NewContext(ctx, s.logger), deadline.Add(-preStartMargin))
	defer cancel()
	defer context.AfterFunc(s.calling, cancel)()
	// A kubelet that counts devices and allocates some at the same moment may write its checkpoint without these last, for what it
	// collects first it can write last. It writes it again when it is told of devices, so a handler that waits for the kubelet to say
	// who holds the slots need not wait for the next pod.
	again := time.AfterFunc(s.stale, func() { s.feed.resend(s.stale) })
	defer again.Stop()
	if err := s.handler.PreStart(ctx, s.resource, slots); err != nil {
		s.logger.Error(err, "Refused to start a container", "slots", len(slots), "first", slots[0])
		return nil, refusal(err)
	}
	s.logger.V(4).Info("Container may start", "slots", len(slots), "first", slots[0])
	return &pluginapi.PreStartContainerResponse{}, nil
}

// sortedSlots is the devices as the rest of the program knows slots: sorted, each once. The kubelet sends them in any order.
func sortedSlots(devices []string) ([]string, error) {
	if len(devices) == 0 {
		return nil, status.Error(codes.InvalidArgument, "the request names no device")
	}
	return slices.Compact(slices.Sorted(slices.Values(devices))), nil
}

// refusal is the handler's error for the kubelet, which puts its text into the pod's status or events.
func refusal(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	default:
		return status.Error(codes.FailedPrecondition, err.Error())
	}
}
