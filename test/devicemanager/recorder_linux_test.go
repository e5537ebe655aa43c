package devicemanager

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"weft.sh/weft/pkg/deviceplugin"
	"weft.sh/weft/pkg/slot"
)

// recorder is a handler that gives every Allocate a name of its own and remembers what the kubelet said at each PreStart.
type recorder struct {
	node   *node
	claims func(context.Context) slot.Kubelet
	memory *memory
}

// memory is what recorders remember, across agents.
type memory struct {
	mu        sync.Mutex
	allocated int
	names     map[string][]string // slots by record
	starts    []start
	refuse    error
}

// start is one PreStart.
type start struct {
	resource slot.Resource
	slots    []string
	owners   []slot.Owner
	err      error
}

func (m *memory) handler(n *node, claims func(context.Context) slot.Kubelet) deviceplugin.Handler {
	return recorder{n, claims, m}
}

// take is the starts since the last time.
func (m *memory) take() []start {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := m.starts
	m.starts = nil
	return out
}

func (r recorder) Allocate(_ context.Context, _ slot.Resource, slots []string) (string, error) {
	r.memory.mu.Lock()
	defer r.memory.mu.Unlock()
	r.memory.allocated++
	name := fmt.Sprintf("record-%d", r.memory.allocated)
	if r.memory.names == nil {
		r.memory.names = map[string][]string{}
	}
	r.memory.names[name] = slices.Clone(slots)
	return slot.CDIKind + "=" + name, nil
}

func (r recorder) PreStart(ctx context.Context, resource slot.Resource, slots []string) error {
	s := start{resource: resource, slots: slots}
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		said := r.claims(ctx)
		s.owners, s.err = slot.Book{}.Owners(resource, slots, said)
		// The kubelet may have written the checkpoint of before it allocated these last; a handler has to wait for the next.
		if s.err == nil && r.node.has(s.owners[0].UID) || ctx.Err() != nil {
			break
		}
		select {
		case <-again.C:
		case <-ctx.Done():
		}
	}
	r.memory.mu.Lock()
	defer r.memory.mu.Unlock()
	r.memory.starts = append(r.memory.starts, s)
	return r.memory.refuse
}
