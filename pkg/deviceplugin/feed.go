package deviceplugin

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	// maxList bounds a list of devices in bytes. The kubelet takes messages of up to 4 MiB, gRPC's default, and drops a plugin
	// that sends a longer one; the rest is for what goes around the list.
	maxList = 4<<20 - 64<<10
	// maxSlot bounds the name of a slot, as the protocol documents it.
	maxSlot = 63
)

// Errors of deviceList.
var (
	errSlotName = errors.New("want 1 to 63 letters, digits and signs of ASCII")
	errTooLong  = errors.New("the kubelet would not take a list that long")
)

// deviceList is the slots as the kubelet is told of them, by name, the shorter first. What the kubelet could not be told is left
// out, and the error says what and why; the list is good all the same.
func deviceList(slots map[string]bool, limit int) ([]*pluginapi.Device, error) {
	names := slices.SortedFunc(maps.Keys(slots), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	})
	list := make([]*pluginapi.Device, 0, len(names))
	var errs []error
	size := 0
	for i, name := range names {
		if name == "" || len(name) > maxSlot || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			errs = append(errs, fmt.Errorf("slot %q: %w", name, errSlotName))
			continue
		}
		d := &pluginapi.Device{ID: name, Health: pluginapi.Unhealthy}
		if slots[name] {
			d.Health = pluginapi.Healthy
		}
		size += protowire.SizeTag(1) + protowire.SizeBytes(proto.Size(d))
		if size > limit {
			errs = append(errs, fmt.Errorf("%d of %d slots are not offered, from %q on: %w", len(names)-i, len(names), name, errTooLong))
			break
		}
		list = append(list, d)
	}
	return list, errors.Join(errs...)
}

// feed is the list of devices of one resource, now and as it changes. Safe for concurrent use.
type feed struct {
	mu   sync.Mutex
	list []*pluginapi.Device
	// changed is closed when list is replaced, or to be sent again.
	changed chan struct{}
	resent  time.Time
}

func newFeed(list []*pluginapi.Device) *feed { return &feed{list: list, changed: make(chan struct{})} }

// get is the list, which must not be written to, and a channel that is closed when there is another one to send.
func (f *feed) get() ([]*pluginapi.Device, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list, f.changed
}

func (f *feed) set(list []*pluginapi.Device) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.EqualFunc(f.list, list, func(a, b *pluginapi.Device) bool { return a.ID == b.ID && a.Health == b.Health }) {
		return
	}
	f.list = list
	f.notify()
}

// resend has the list sent again as it is, at most once in the interval.
func (f *feed) resend(interval time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.resent) >= interval {
		f.resent = now
		f.notify()
	}
}

// notify wakes who sends the list. The caller holds mu.
func (f *feed) notify() {
	close(f.changed)
	f.changed = make(chan struct{})
}
