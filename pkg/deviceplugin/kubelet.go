package deviceplugin

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"weft.sh/weft/pkg/slot"
)

const (
	// The kubelet answers 100 calls of PodResources per second and bursts of 10, for all its callers together, and refuses the
	// others. We take half.
	listQPS   = 50
	listBurst = 5
	// listLimit bounds one reading, with the waiting for a kubelet that is about to start.
	listLimit = 3 * time.Second
	// maxListing bounds what PodResources answers. A node with hundreds of pods needs a few MiB.
	maxListing = 64 << 20
)

// Kubelet reads what the kubelet says who holds what. Safe for concurrent use.
type Kubelet struct {
	read    func(ctx context.Context) slot.Kubelet
	limiter *rate.Limiter
	conn    *grpc.ClientConn
	pods    podresources.PodResourcesListerClient

	mu sync.Mutex
	// next is the reading that has not begun, nil when nobody waits for one.
	next *reading
	busy bool // somebody works through the readings
	// trouble is what was last logged of each half, empty when it could be read.
	trouble map[string]string
}

// reading is one look at what the kubelet says, for everybody who asked before it began.
type reading struct {
	done  chan struct{}
	value slot.Kubelet // once done is closed
}

// NewKubelet reads the kubelet's checkpoint of devices, and its socket for PodResources. A path that leads nowhere, as before the
// kubelet has started for the first time, is no error here: the file is opened at each reading, and the socket connected to when it is
// needed, again after it has gone. What cannot be read then is missing in the answer of [Kubelet.Claims].
func NewKubelet(checkpoint, podResources string) (*Kubelet, error) {
	conn, err := dial(podResources,
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxListing), grpc.WaitForReady(true)),
		// gRPC's own pauses between connections grow to minutes; a kubelet is back in seconds.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("PodResources at %s: %w", podResources, err)
	}
	k := newKubelet(nil)
	k.conn, k.pods = conn, podresources.NewPodResourcesListerClient(conn)
	k.read = func(ctx context.Context) slot.Kubelet { return k.readBoth(ctx, checkpoint) }
	return k, nil
}

func newKubelet(read func(context.Context) slot.Kubelet) *Kubelet {
	return &Kubelet{read: read, limiter: rate.NewLimiter(listQPS, listBurst), trouble: map[string]string{}}
}

// Close ends the connection.
func (k *Kubelet) Close() error { return k.conn.Close() }

// Claims is what the kubelet says, read after the call. A half that cannot be read is nil, and the log says why; both are when
// ctx ends first. Calls at the same time share a reading.
func (k *Kubelet) Claims(ctx context.Context) slot.Kubelet {
	k.mu.Lock()
	if k.next == nil {
		k.next = &reading{done: make(chan struct{})}
	}
	r := k.next
	if !k.busy {
		k.busy = true
		// A reading is for several callers, so that it does not end with one of them.
		go k.work(context.WithoutCancel(ctx))
	}
	k.mu.Unlock()
	select {
	case <-r.done:
		return r.value
	case <-ctx.Done():
		return slot.Kubelet{}
	}
}

// work does readings, one at a time, until nobody waits for one. Who asks while one is under way waits for the next, for what
// happened since may be missing in it.
func (k *Kubelet) work(ctx context.Context) {
	for {
		// Before the reading is taken, so that those who ask meanwhile still share it. It errs only where ctx ends.
		_ = k.limiter.Wait(ctx)
		k.mu.Lock()
		r := k.next
		k.next = nil
		k.mu.Unlock()
		r.value = k.read(ctx)
		close(r.done)
		k.mu.Lock()
		if k.next == nil {
			k.busy = false
			k.mu.Unlock()
			return
		}
		k.mu.Unlock()
	}
}

// readBoth reads both halves.
func (k *Kubelet) readBoth(ctx context.Context, checkpoint string) slot.Kubelet {
	ctx, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	var out slot.Kubelet
	data, err := os.ReadFile(checkpoint)
	if err == nil {
		out.Checkpoint, err = parseCheckpoint(data)
	}
	k.report(ctx, "checkpoint", err)
	list, err := k.list(ctx)
	if err == nil {
		out.Active = activeClaims(list)
	}
	k.report(ctx, "PodResources", err)
	return out
}

// report logs that a half cannot be read, why, and that it can be again; each once. Only work calls it.
func (k *Kubelet) report(ctx context.Context, half string, err error) {
	logger := klog.FromContext(ctx)
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch {
	case text == k.trouble[half]:
	case err != nil:
		logger.Error(err, "Cannot read what the kubelet says who holds devices", "from", half)
	default:
		logger.Info("The kubelet says again who holds devices", "from", half)
	}
	k.trouble[half] = text
}

// list asks PodResources, again where others have used up the kubelet's limit.
func (k *Kubelet) list(ctx context.Context) (*podresources.ListPodResourcesResponse, error) {
	pauses := wait.Backoff{Duration: 30 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 5}
	for {
		list, err := k.pods.List(ctx, &podresources.ListPodResourcesRequest{})
		if status.Code(err) != codes.ResourceExhausted || pauses.Steps == 0 {
			return list, err
		}
		pause(ctx, pauses.Step())
	}
}

// activeClaims is who holds our resources, by pod, container and resource; not nil. The kubelet lists each device of a container
// by itself, and once for each of its NUMA nodes.
func activeClaims(list *podresources.ListPodResourcesResponse) []slot.Claim {
	claims := []slot.Claim{}
	for _, pod := range list.GetPodResources() {
		for _, container := range pod.GetContainers() {
			slots := map[slot.Resource][]string{}
			for _, d := range container.GetDevices() {
				if r, ok := ParseResourceName(d.GetResourceName()); ok && len(d.GetDeviceIds()) > 0 {
					slots[r] = append(slots[r], d.GetDeviceIds()...)
				}
			}
			for r, s := range slots {
				slices.Sort(s)
				claims = append(claims, slot.Claim{
					Namespace: pod.GetNamespace(), Pod: pod.GetName(), Container: container.GetName(), Resource: r, Slots: slices.Compact(s),
				})
			}
		}
	}
	slices.SortFunc(claims, compareClaims)
	return claims
}
