package gpu

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Grant is what one container holds of one GPU. Exactly one of three forms:
//
//	whole     Instance nil, MilliGPU 0, MemoryMiB 0
//	shared    Instance nil, MilliGPU 1 to 1000, MemoryMiB 1 to MaxMemoryMiB
//	MIG       Instance set, MilliGPU 0, MemoryMiB 0
type Grant struct {
	GPU       ID
	MilliGPU  int64
	MemoryMiB int64
	Instance  *Instance
}

// Kind is the form of the grant.
func (g Grant) Kind() Kind {
	switch {
	case g.Instance != nil:
		return MIG
	case g.MilliGPU > 0:
		return Shared
	}
	return Whole
}

// Validate reports what is wrong with the grant, nil when nothing is.
func (g Grant) Validate() error {
	if err := g.GPU.Validate(); err != nil {
		return err
	}
	switch g.Kind() {
	case MIG:
		if g.MilliGPU != 0 || g.MemoryMiB != 0 {
			return errors.New("a MIG grant has neither share nor memory")
		}
		return g.Instance.Validate()
	case Shared:
		if g.MilliGPU > WholeMilliGPU || g.MemoryMiB < 1 || g.MemoryMiB > MaxMemoryMiB {
			return fmt.Errorf("share of %d milli-GPU and %d MiB: want 1 to %d milli-GPU and 1 to %d MiB",
				g.MilliGPU, g.MemoryMiB, WholeMilliGPU, MaxMemoryMiB)
		}
	default:
		if g.MilliGPU != 0 || g.MemoryMiB != 0 {
			return fmt.Errorf("share of %d milli-GPU and %d MiB: want 1 to %d milli-GPU", g.MilliGPU, g.MemoryMiB, WholeMilliGPU)
		}
	}
	return nil
}

// String is the grant as in an assignment; see [ParseAssignment].
func (g Grant) String() string {
	switch g.Kind() {
	case MIG:
		return string(g.GPU) + ":" + g.Instance.String()
	case Shared:
		return fmt.Sprintf("%s:%dm/%dMi", g.GPU, g.MilliGPU, g.MemoryMiB)
	}
	return string(g.GPU)
}

// ContainerGrants is what one container holds.
type ContainerGrants struct {
	Container string
	// Init is as in [ContainerRequest]: the grants are held only until the containers after it run, so they count only
	// where they, with what the sidecars before it hold, exceed what runs in the end.
	Init   bool
	Grants []Grant
}

// Assignment is what a pod holds: its containers in the pod's order. The zero value holds nothing.
type Assignment struct {
	Containers []ContainerGrants
}

// Empty reports whether the assignment holds nothing.
func (a Assignment) Empty() bool { return len(a.Containers) == 0 }

// MaxAssignmentBytes bounds the text of an assignment: no node has so many GPUs that a pod needs more, and what is longer
// is not worth parsing.
const MaxAssignmentBytes = 64 << 10

// ErrMalformed is wrapped by every error of [ParseAssignment].
var ErrMalformed = errors.New("malformed GPU assignment")

// String is the text form that [ParseAssignment] reads; the same assignment always prints the same.
func (a Assignment) String() string {
	var b strings.Builder
	for i, c := range a.Containers {
		if i > 0 {
			b.WriteByte(';')
		}
		if c.Init {
			b.WriteByte('~')
		}
		b.WriteString(c.Container)
		b.WriteByte('=')
		for j, g := range c.Grants {
			if j > 0 {
				b.WriteByte(',')
			}
			b.WriteString(g.String())
		}
	}
	return b.String()
}

// Validate reports the first thing that is wrong with the assignment, nil when nothing is. What contradicts itself is
// wrong too: containers that run at the same time hold more of a GPU than there is, or one GPU in two ways.
func (a Assignment) Validate() error {
	seen := map[string]bool{}
	for _, c := range a.Containers {
		if !validContainer(c.Container) {
			return fmt.Errorf("container %q: want a DNS label", c.Container)
		}
		if seen[c.Container] {
			return fmt.Errorf("container %q stands twice", c.Container)
		}
		seen[c.Container] = true
		if len(c.Grants) == 0 {
			return fmt.Errorf("container %q holds nothing", c.Container)
		}
		for _, g := range c.Grants {
			if err := g.Validate(); err != nil {
				return fmt.Errorf("container %q: %w", c.Container, err)
			}
		}
	}
	_, err := a.holdings()
	return err
}

// validContainer accepts what Kubernetes accepts as a container name (RFC 1123 label).
func validContainer(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c != '-' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// ParseAssignment reads the text form of an assignment, the value of the pod annotation weft.sh/gpus:
//
//	assignment = container { ";" container }
//	container  = [ "~" ] name "=" grant { "," grant }        "~" marks an init container
//	grant      = gpu                                         the whole GPU
//	           | gpu ":" milliGPU "m/" memoryMiB "Mi"        a share of it
//	           | gpu ":" profile "@" start ":" size          a MIG instance, in memory slices
//
// For example "main=GPU-1f0c,GPU-77ab" or "web=GPU-1f0c:250m/20480Mi;batch=GPU-3d2e:3g.40gb@4:4". The empty text is the
// empty assignment. Every error wraps [ErrMalformed] and says what was found. What is accepted prints back, by String,
// as the same text.
func ParseAssignment(s string) (Assignment, error) {
	var a Assignment
	if s == "" {
		return a, nil
	}
	if len(s) > MaxAssignmentBytes {
		return a, fmt.Errorf("%w: %d bytes, at most %d are accepted", ErrMalformed, len(s), MaxAssignmentBytes)
	}
	for part := range strings.SplitSeq(s, ";") {
		name, grants, ok := strings.Cut(part, "=")
		if !ok {
			return Assignment{}, fmt.Errorf("%w: %q: want container=grant[,grant…]", ErrMalformed, clip(part))
		}
		c := ContainerGrants{}
		c.Container, c.Init = strings.CutPrefix(name, "~")
		for text := range strings.SplitSeq(grants, ",") {
			g, err := parseGrant(text)
			if err != nil {
				return Assignment{}, fmt.Errorf("%w: container %q: %w", ErrMalformed, clip(c.Container), err)
			}
			c.Grants = append(c.Grants, g)
		}
		a.Containers = append(a.Containers, c)
	}
	if err := a.Validate(); err != nil {
		return Assignment{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return a, nil
}

func parseGrant(s string) (Grant, error) {
	id, what, some := strings.Cut(s, ":")
	g := Grant{GPU: ID(id)}
	if !some {
		return g, nil
	}
	if profile, place, ok := strings.Cut(what, "@"); ok {
		start, size, ok := strings.Cut(place, ":")
		i := Instance{Profile: profile}
		var err1, err2 error
		i.Start, err1 = parseInt(start)
		i.Size, err2 = parseInt(size)
		if !ok || err1 != nil || err2 != nil {
			return Grant{}, fmt.Errorf("grant %q: want gpu:profile@start:size", clip(s))
		}
		g.Instance = &i
		return g, nil
	}
	milli, mem, ok := strings.Cut(what, "/")
	milli, okMilli := strings.CutSuffix(milli, "m")
	mem, okMem := strings.CutSuffix(mem, "Mi")
	m, err1 := parseInt(milli)
	mib, err2 := parseInt(mem)
	if !ok || !okMilli || !okMem || err1 != nil || err2 != nil || m == 0 {
		return Grant{}, fmt.Errorf("grant %q: want gpu, gpu:<n>m/<n>Mi or gpu:profile@start:size", clip(s))
	}
	g.MilliGPU, g.MemoryMiB = int64(m), int64(mib)
	return g, nil
}

// parseInt reads a number in the one form that prints back the same: digits, no sign, no leading zero.
func parseInt(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(n) != s || n < 0 {
		return 0, errors.New("not a number")
	}
	return n, nil
}

// clip keeps what an error repeats of a user's text short.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// Use is what an assignment takes of one GPU, in one of the three ways.
type Use struct {
	GPU ID
	// Whole says that the GPU is given whole; the other fields are then zero.
	Whole     bool
	MilliGPU  int64
	MemoryMiB int64
	// Instances are the MIG instances held, by start.
	Instances []Instance
}

// Uses is what the pod takes of each GPU, sorted by id: the most that it holds at any time. The containers that run
// together add up; an init container that is no sidecar runs before them, beside the sidecars before it only, so it adds
// what it holds beyond them (the larger of the two counts, as in the kubelet's accounting). The assignment must be valid.
func (a Assignment) Uses() []Use {
	holdings, _ := a.holdings()
	uses := make([]Use, 0, len(holdings))
	for _, h := range holdings {
		slices.SortFunc(h.most.Instances, func(a, b Instance) int {
			return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.Size, b.Size), cmp.Compare(a.Profile, b.Profile))
		})
		uses = append(uses, h.most)
	}
	slices.SortFunc(uses, func(a, b Use) int { return cmp.Compare(a.GPU, b.GPU) })
	return uses
}

// holding is what the pod holds of one GPU, followed through the life of the pod.
type holding struct {
	// now is what the containers hold that run at the moment; taken are the memory slices of its instances.
	now   Use
	taken uint64
	// most is the most that was held until now.
	most Use
}

// holdings walks the containers in the order in which they run. The error says what contradicts itself.
func (a Assignment) holdings() (map[ID]*holding, error) {
	all := map[ID]*holding{}
	var first error
	for _, c := range a.Containers {
		for i, g := range c.Grants {
			h := all[g.GPU]
			if h == nil {
				h = &holding{now: Use{GPU: g.GPU}, most: Use{GPU: g.GPU}}
				all[g.GPU] = h
			}
			if err := h.add(g); err != nil && first == nil {
				first = fmt.Errorf("container %q, grant %d: GPU %s %w", c.Container, i+1, g.GPU, err)
			}
		}
		if !c.Init {
			continue
		}
		for _, g := range slices.Backward(c.Grants) {
			all[g.GPU].remove(g)
		}
	}
	return all, first
}

// add gives the grant beside what is held now.
func (h *holding) add(g Grant) error {
	var err error
	switch g.Kind() {
	case Whole:
		if h.now.Whole || h.now.MilliGPU > 0 {
			err = errors.New("is held whole beside others")
		}
		h.now.Whole = true
		h.most = Use{GPU: g.GPU, Whole: true, Instances: h.most.Instances}
	case Shared:
		h.now.MilliGPU += g.MilliGPU
		h.now.MemoryMiB += g.MemoryMiB
		if h.now.Whole {
			err = errors.New("is held whole beside others")
		} else if h.now.MilliGPU > WholeMilliGPU {
			err = fmt.Errorf("is shared to %s", FormatPercent(h.now.MilliGPU))
		}
		if !h.most.Whole {
			h.most.MilliGPU = max(h.most.MilliGPU, h.now.MilliGPU)
			h.most.MemoryMiB = max(h.most.MemoryMiB, h.now.MemoryMiB)
		}
	case MIG:
		if h.taken&g.Instance.Slices() != 0 {
			err = fmt.Errorf("has overlapping MIG instances: %s and another", *g.Instance)
		}
		h.taken |= g.Instance.Slices()
		if !slices.Contains(h.most.Instances, *g.Instance) {
			h.most.Instances = append(h.most.Instances, *g.Instance)
		}
	}
	if len(h.most.Instances) > 0 && (h.most.Whole || h.most.MilliGPU > 0) {
		err = errors.New("is partitioned and held in another way too")
	}
	return err
}

// remove takes back what add gave last.
func (h *holding) remove(g Grant) {
	switch g.Kind() {
	case Whole:
		h.now.Whole = false
	case Shared:
		h.now.MilliGPU -= g.MilliGPU
		h.now.MemoryMiB -= g.MemoryMiB
	case MIG:
		h.taken &^= g.Instance.Slices()
	}
}
