package nodeagent

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvml"
)

// Mode is what the agent gives out.
type Mode string

const (
	// ModeAll: whole GPUs, shares and MIG instances.
	ModeAll Mode = "all"
	// ModeFractions: shares of the GPUs that are named, and nothing else. NVIDIA's device plugin gives out the others.
	ModeFractions Mode = "fractions"
)

// State is what the agent knows of the node's GPUs at one moment. Read only: everybody shares it.
type State struct {
	// Unavailable is why NVML cannot be used, nil while it can.
	Unavailable error
	// Host is what NVML said last, zero while it is unavailable.
	Host nvml.Host
	// Devices are the GPUs as they are published, by index: healthy ones, those that are not, and those that are gone.
	Devices []gpu.Device
	// first is the first of all GPUs, also of those that are not published; nil when there is none.
	first *card
	// Problems are sentences for people: what NVML said that is not believed, and what is wrong with the agent's settings.
	Problems []string
}

// policy is what a node's admin has decided, and what the node can do.
type policy struct {
	mode Mode
	// shared names the GPUs that ModeFractions shares, by index or UUID.
	shared []string
	// cgroup2 says that the node's cgroups are of version 2, without which the driver bounds no memory.
	cgroup2 bool
	// mps says of a GPU that its control daemon is ready; nil for none.
	mps func(gpu.ID) bool
}

// derive is what the agent publishes: of the cards that the node has and had, what NVML says of them now, and why those that are not
// healthy are not.
func derive(cards []card, host nvml.Host, unavailable error, sick map[gpu.ID]string, p policy) *State {
	s := &State{Unavailable: unavailable, Host: host}
	there := map[gpu.ID]nvml.GPU{}
	said := map[string]bool{} // by the GPU itself
	for _, g := range host.GPUs {
		there[g.ID] = g
		said[fmt.Sprintf("GPU %d (%s): %s", g.Index, g.ID, g.Problem)] = true
	}
	for _, p := range host.Problems {
		if !said[p] {
			s.Problems = append(s.Problems, p)
		}
	}
	for i, c := range cards {
		if i == 0 {
			s.first = &c
		}
		d := c.Device
		g, found := there[d.ID]
		reason := cmp.Or(sick[d.ID], g.Problem)
		switch {
		case unavailable != nil:
			reason = "NVML cannot be used, so nobody knows: " + unavailable.Error()
		case !found:
			reason = "the node had it since it was booted, and has it no more"
		}
		d.Unhealthy, d.UnhealthyReason = reason != "", clean(reason)
		if p.mode == ModeFractions {
			if d.MIG {
				continue
			}
			d.SharedOnly = slices.ContainsFunc(p.shared, func(s string) bool { return names(s, d) })
			d.WholeOnly = !d.SharedOnly
		}
		if !d.MIG && !d.WholeOnly {
			d.Isolation = isolation(d.ID, g.MemoryLimits, p)
		}
		s.Devices = append(s.Devices, d)
	}
	for _, selector := range p.shared {
		at := slices.IndexFunc(cards, func(c card) bool { return names(selector, c.Device) })
		switch {
		case at < 0:
			s.Problems = append(s.Problems, fmt.Sprintf("--shared-gpus names %q, which the node does not have", selector))
		case cards[at].MIG:
			s.Problems = append(s.Problems, fmt.Sprintf("--shared-gpus names %q, which is in MIG mode: no shares are given of it", selector))
		}
	}
	if unavailable == nil {
		s.Problems = append(s.Problems, mixed(cards)...)
	}
	if p.mode != ModeFractions {
		s.Problems = append(s.Problems, unlabelled(s)...)
	}
	return s
}

// isolation is what keeps shares of the GPU apart.
func isolation(id gpu.ID, memoryLimits bool, p policy) gpu.Isolation {
	switch {
	case p.mps != nil && p.mps(id):
		return gpu.IsolationMPS
	case memoryLimits && p.cgroup2:
		return gpu.IsolationMemory
	}
	return gpu.IsolationNone
}

// mixed says that the GPUs are of several products.
func mixed(cards []card) []string {
	for _, c := range cards {
		if c.Product != cards[0].Product {
			return []string{fmt.Sprintf("the GPUs are of several products, and a node has one label: %s, as GPU %d, not %s, as GPU %d",
				cards[0].Product, cards[0].Index, c.Product, c.Index)}
		}
	}
	return nil
}

// names reports whether the selector, an index or a UUID, is of the GPU.
func names(selector string, d gpu.Device) bool {
	return selector == string(d.ID) || selector == strconv.Itoa(d.Index)
}

// clean makes a reason fit for a [gpu.Device]: one line, not too long.
func clean(reason string) string {
	isBlank := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }
	reason = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(reason, "?"), isBlank), " ")
	if len(reason) > gpu.MaxReason {
		reason = strings.ToValidUTF8(reason[:gpu.MaxReason-len("…")], "") + "…"
	}
	return reason
}

// board shows the latest state to whoever looks. The zero board shows none.
type board struct {
	mu      sync.Mutex
	state   *State
	changed chan struct{}
}

// post replaces the state.
func (b *board) post(s *State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state = s
	if b.changed != nil {
		close(b.changed)
	}
	b.changed = make(chan struct{})
}

// look returns the state, nil when there is none yet, and a channel that is closed when there is another.
func (b *board) look() (*State, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.changed == nil {
		b.changed = make(chan struct{})
	}
	return b.state, b.changed
}
