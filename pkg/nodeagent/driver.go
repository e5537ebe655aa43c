package nodeagent

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"tags.cncf.io/container-device-interface/specs-go"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvml"
)

// library is what is needed of NVML; a *[nvml.Library].
type library interface {
	Discover() (nvml.Host, error)
	Check(gpu.ID) nvml.Condition
	Events(context.Context, func(nvml.Event)) error
	Edits(nvml.EditOptions, ...string) (*specs.ContainerEdits, error)
	Utilisation(gpu.ID, uint64) (nvml.Utilisation, error)
	Close() error
}

var _ library = (*nvml.Library)(nil)

// driver is NVML for those who use it now and then, while the hardware loop opens and closes it. Safe for concurrent use.
type driver struct {
	options nvml.EditOptions
	board   *board
	// stale is called when there are no edits, which may be because what the board says is no longer so.
	stale func()

	mu  sync.RWMutex
	lib library
}

// use makes the library the one that is asked, nil for none.
func (d *driver) use(lib library) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lib = lib
}

func (d *driver) library() library {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.lib
}

// edits is what a container needs that holds these.
func (d *driver) edits(grants []gpu.Grant) (*specs.ContainerEdits, error) {
	lib := d.library()
	state, _ := d.board.look()
	if lib == nil || state == nil {
		return nil, fmt.Errorf("%w yet, or no longer", nvml.ErrUnavailable)
	}
	uuids, err := uuids(state.Host, grants)
	if err == nil {
		var e *specs.ContainerEdits
		if e, err = lib.Edits(d.options, uuids...); err == nil {
			return e, nil
		}
	}
	d.stale()
	return nil, err
}

// uuids are those of what the grants name: of GPUs, or of MIG devices, which have new ones whenever they are made.
func uuids(host nvml.Host, grants []gpu.Grant) ([]string, error) {
	var out []string
	for _, g := range grants {
		if g.Instance == nil {
			out = append(out, string(g.GPU))
			continue
		}
		uuid := ""
		for _, h := range host.GPUs {
			for _, m := range h.MIGDevices {
				if h.ID == g.GPU && m.Instance == *g.Instance {
					uuid = m.UUID
				}
			}
		}
		if uuid == "" {
			return nil, fmt.Errorf("%w: GPU %s has no MIG instance %s now", nvml.ErrNoGPU, g.GPU, g.Instance)
		}
		out = append(out, uuid)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}
