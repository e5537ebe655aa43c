package gpu

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Kind is how a container wants its GPUs.
type Kind uint8

const (
	// Whole GPUs, each with nobody else on it.
	Whole Kind = iota + 1
	// Shared GPUs: a share of compute and memory on each.
	Shared
	// MIG instances of one profile.
	MIG
)

// String is the kind in words, for messages.
func (k Kind) String() string {
	switch k {
	case Whole:
		return "whole"
	case Shared:
		return "shared"
	case MIG:
		return "mig"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// MaxCount bounds what one container can ask for of a kind. It is more than any node has: 64 GPUs of 64 MIG instances.
const MaxCount = 64 * MaxMemorySlices

// Ask is one thing that a container asks for. A container may have several, for example two MIG profiles.
type Ask struct {
	Kind Kind
	// Count is the number of GPUs, all distinct, or of MIG instances. 1 to [MaxCount].
	Count int
	// MilliGPU is the share of each GPU, 1 to 1000, for Shared; 0 otherwise.
	MilliGPU int64
	// MemoryMiB is a floor: for Shared, on the memory of each share, which otherwise is MilliGPU of the GPU's memory;
	// for Whole, on the memory of each GPU. 0 is no floor, [MaxMemoryMiB] the highest. It does not apply to MIG, where
	// the profile says the size.
	MemoryMiB int64
	// Profile is the MIG profile, for MIG; empty otherwise.
	Profile string
}

// Validate reports what is wrong with the ask, nil when nothing is.
func (a Ask) Validate() error {
	if a.Count < 1 || a.Count > MaxCount {
		return fmt.Errorf("count %d: want 1 to %d", a.Count, MaxCount)
	}
	if a.MemoryMiB < 0 || a.MemoryMiB > MaxMemoryMiB {
		return fmt.Errorf("memory floor %d MiB: want 0 to %d", a.MemoryMiB, MaxMemoryMiB)
	}
	switch a.Kind {
	case Whole:
		if a.MilliGPU != 0 || a.Profile != "" {
			return errors.New("whole GPUs have neither share nor profile")
		}
	case Shared:
		if a.MilliGPU < 1 || a.MilliGPU > WholeMilliGPU {
			return fmt.Errorf("share %d milli-GPU: want 1 to %d", a.MilliGPU, WholeMilliGPU)
		}
		if a.Profile != "" {
			return errors.New("a share has no MIG profile")
		}
	case MIG:
		if !ValidProfile(a.Profile) {
			return fmt.Errorf("MIG profile %q: want a name such as 1g.10gb", a.Profile)
		}
		if a.MilliGPU != 0 || a.MemoryMiB != 0 {
			return errors.New("a MIG instance has neither share nor memory floor: its profile says both")
		}
	default:
		return fmt.Errorf("unknown kind %v", a.Kind)
	}
	return nil
}

// ShareMemoryMiB is the memory that a share takes on a GPU with deviceMiB: its part of the memory, rounded down but at
// least 1, or the floor where that is more. Only for Shared.
func (a Ask) ShareMemoryMiB(deviceMiB int64) int64 {
	return max(deviceMiB*a.MilliGPU/WholeMilliGPU, a.MemoryMiB, 1)
}

// String is the ask in words, for messages: "2 whole GPUs", "25% of 1 GPU", "1 x 1g.10gb".
func (a Ask) String() string {
	s := ""
	switch a.Kind {
	case Whole:
		s = fmt.Sprintf("%d whole GPU%s", a.Count, plural(a.Count))
	case Shared:
		s = fmt.Sprintf("%s of %d GPU%s", FormatPercent(a.MilliGPU), a.Count, plural(a.Count))
	case MIG:
		s = fmt.Sprintf("%d x %s", a.Count, a.Profile)
	}
	if a.MemoryMiB > 0 {
		s += fmt.Sprintf(" with at least %d MiB each", a.MemoryMiB)
	}
	return s
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

// FormatPercent prints milli-GPU as a percentage, with a decimal only where there is one: "25%", "12.5%".
func FormatPercent(milliGPU int64) string {
	if milliGPU%10 == 0 {
		return fmt.Sprintf("%d%%", milliGPU/10)
	}
	return fmt.Sprintf("%d.%d%%", milliGPU/10, milliGPU%10)
}

// ContainerRequest is what one container asks.
type ContainerRequest struct {
	Name string
	// Init marks an init container that ends before the containers after it start: what it holds serves them afterwards,
	// as in the kubelet. A restartable init container (a sidecar) is not Init: it runs beside everything after it, init
	// containers included.
	Init bool
	// Asks are one for whole GPUs at most, one for shares at most, and one at most for each MIG profile.
	Asks []Ask
}

// Request is what a pod asks of one node. The zero Request asks for no GPU.
type Request struct {
	// Containers are those that ask for anything, in the pod's order: init containers and sidecars first. The order says
	// which sidecars run beside which init containers.
	Containers []ContainerRequest
	// Products are the GPU models that the pod accepts, sorted; empty accepts every model.
	Products []string
}

// Empty reports whether the request asks for no GPU.
func (r Request) Empty() bool { return len(r.Containers) == 0 }

// Accepts reports whether a GPU of the product may serve the request.
func (r Request) Accepts(product string) bool {
	return len(r.Products) == 0 || slices.Contains(r.Products, product)
}

// Validate reports the first thing that is wrong with the request, nil when nothing is.
func (r Request) Validate() error {
	seen := map[string]bool{}
	for _, c := range r.Containers {
		if seen[c.Name] {
			return fmt.Errorf("container %q stands twice in the request", c.Name)
		}
		seen[c.Name] = true
		if len(c.Asks) == 0 {
			return fmt.Errorf("container %q asks for nothing", c.Name)
		}
		for i, a := range c.Asks {
			if err := a.Validate(); err != nil {
				return fmt.Errorf("container %q: %w", c.Name, err)
			}
			if slices.ContainsFunc(c.Asks[:i], func(b Ask) bool { return a.Kind == b.Kind && a.Profile == b.Profile }) {
				return fmt.Errorf("container %q asks twice: for %s beside another of the kind", c.Name, a)
			}
		}
	}
	if !slices.IsSorted(r.Products) {
		return fmt.Errorf("products %q are not sorted", r.Products)
	}
	return nil
}

// MilliGPU is the most compute that the request holds at any time, in milli-GPU: its whole GPUs and shares summed over
// the containers that run at the same time. MIG instances do not count, for their share depends on the GPU.
func (r Request) MilliGPU() int64 {
	var running, initPeak int64
	for _, c := range r.Containers {
		var sum int64
		for _, a := range c.Asks {
			switch a.Kind {
			case Whole:
				sum += int64(a.Count) * WholeMilliGPU
			case Shared:
				sum += int64(a.Count) * a.MilliGPU
			}
		}
		if c.Init {
			initPeak = max(initPeak, running+sum) // running are the sidecars before it
		} else {
			running += sum
		}
	}
	return max(running, initPeak)
}

// SatisfiedBy reports whether the assignment gives every container exactly what it asks for: the same containers in the
// same order, and for each as many whole GPUs, shares of that size on distinct GPUs, and instances of each profile.
func (r Request) SatisfiedBy(a Assignment) bool {
	return slices.EqualFunc(r.Containers, a.Containers, func(c ContainerRequest, h ContainerGrants) bool {
		if c.Name != h.Container || c.Init != h.Init {
			return false
		}
		rest := slices.Clone(h.Grants)
		for _, ask := range c.Asks {
			var gpus []ID
			for range ask.Count {
				i := slices.IndexFunc(rest, func(g Grant) bool {
					return ask.grantedBy(g) && (ask.Kind == MIG || !slices.Contains(gpus, g.GPU))
				})
				if i < 0 {
					return false
				}
				gpus = append(gpus, rest[i].GPU)
				rest = slices.Delete(rest, i, i+1)
			}
		}
		return len(rest) == 0
	})
}

// grantedBy reports whether the grant is one of what is asked for.
func (a Ask) grantedBy(g Grant) bool {
	if g.Kind() != a.Kind {
		return false
	}
	switch a.Kind {
	case Shared:
		return g.MilliGPU == a.MilliGPU && g.MemoryMiB >= a.MemoryMiB
	case MIG:
		return g.Instance.Profile == a.Profile
	}
	return true
}

// Shape is the request in a form that is equal for equal requests and different for different ones, for use as a key. It
// is empty for the empty request.
func (r Request) Shape() string {
	if r.Empty() {
		return ""
	}
	var b strings.Builder
	for _, c := range r.Containers {
		fmt.Fprintf(&b, "%q %t", c.Name, c.Init)
		for _, a := range c.Asks {
			fmt.Fprintf(&b, " %d,%d,%d,%d,%q", a.Kind, a.Count, a.MilliGPU, a.MemoryMiB, a.Profile)
		}
		b.WriteByte(';')
	}
	for _, p := range r.Products {
		fmt.Fprintf(&b, "%q", p)
	}
	return b.String()
}
