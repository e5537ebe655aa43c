package cluster

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

// Source says where an inventory comes from.
type Source uint8

const (
	// SourceNone: the node reports no GPUs.
	SourceNone Source = iota
	// SourceSlices: ResourceSlices of driver gpu.weft.sh.
	SourceSlices
	// SourceLabels: NVIDIA's node labels; whole GPUs only.
	SourceLabels
)

// String is the source in a word, for output.
func (s Source) String() string {
	return [...]string{"none", "slices", "labels"}[min(s, SourceLabels)]
}

// Inventory is what a node reports. Immutable; made by [NewInventory]. The zero Inventory reports no GPU.
type Inventory struct {
	Source Source
	// Devices are the sound GPUs, sorted by Index, ids unique.
	Devices []gpu.Device
	// Problems say what was found malformed or incomplete and is therefore not used, for people; sorted.
	Problems []string

	offers []*mig.Offer // of each device, nil when it is not in MIG mode
}

// NewInventory is what a node reports, in any order. A device that is not valid, or whose id or index another one has,
// is left out and named in the problems.
func NewInventory(source Source, devices []gpu.Device, problems ...string) Inventory {
	inv := Inventory{Source: source, Problems: slices.Clone(problems)}
	sorted := slices.Clone(devices)
	slices.SortStableFunc(sorted, func(a, b gpu.Device) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.ID, b.ID))
	})
	ids, indices := map[gpu.ID]bool{}, map[int]bool{}
	for _, d := range sorted {
		err := d.Validate()
		var offer *mig.Offer
		if err == nil && d.MIG {
			// GPUs that offer the same share the offer: it is how mig recognises them as equal.
			if last := len(inv.Devices) - 1; last >= 0 && slices.Equal(inv.Devices[last].Instances, d.Instances) {
				offer = inv.offers[last]
			}
			if offer == nil {
				offer, err = mig.NewOffer(d.Instances)
			}
			if err != nil {
				err = fmt.Errorf("device %q: %w", d.ID, err)
			}
		}
		switch {
		case err != nil:
			inv.Problems = append(inv.Problems, err.Error())
		case ids[d.ID]:
			inv.Problems = append(inv.Problems, fmt.Sprintf("device %q: a GPU of this id is there already", d.ID))
		case indices[d.Index]:
			inv.Problems = append(inv.Problems, fmt.Sprintf("device %q: a GPU of index %d is there already", d.ID, d.Index))
		default:
			ids[d.ID], indices[d.Index] = true, true
			inv.Devices = append(inv.Devices, d)
			inv.offers = append(inv.offers, offer)
		}
	}
	slices.Sort(inv.Problems)
	return inv
}

// Empty is the state of device i, which must be in MIG mode, when nothing on it is used.
func (i Inventory) Empty(device int) mig.State { return mig.NewState(i.offers[device], nil) }

// Equal reports whether two inventories say the same.
func (i Inventory) Equal(o Inventory) bool {
	return i.Source == o.Source && slices.Equal(i.Problems, o.Problems) &&
		slices.EqualFunc(i.Devices, o.Devices, func(a, b gpu.Device) bool {
			return a.ID == b.ID && a.Index == b.Index && a.Product == b.Product && a.MemoryMiB == b.MemoryMiB &&
				a.Unhealthy == b.Unhealthy && a.WholeOnly == b.WholeOnly && a.MIG == b.MIG &&
				slices.Equal(a.Instances, b.Instances)
		})
}

// Pod is a pod that runs, or is about to run, on a node and asks for GPUs.
type Pod struct {
	// UID identifies the pod.
	UID string
	// Name is namespace/name, for people.
	Name string
	// Assignment is what it holds.
	Assignment gpu.Assignment
	// Unplaced is what the pod asks for when nobody knows which GPUs it holds: another scheduler bound it, or its
	// assignment cannot be read. As many idle GPUs of the node are then withheld from others. Empty where Assignment
	// is known.
	Unplaced gpu.Request

	uses []gpu.Use
}

// NewPod is a pod that holds an assignment.
func NewPod(uid, name string, a gpu.Assignment) Pod {
	return Pod{UID: uid, Name: name, Assignment: a, uses: a.Uses()}
}

// NewUnplacedPod is a pod that holds nobody knows what.
func NewUnplacedPod(uid, name string, r gpu.Request) Pod {
	return Pod{UID: uid, Name: name, Unplaced: r}
}

// Uses is what the pod holds, by GPU.
func (p Pod) Uses() []gpu.Use { return p.uses }

// Equal reports whether the two pods are the same pod holding the same.
func (p Pod) Equal(o Pod) bool {
	return p.UID == o.UID && p.Name == o.Name && p.Assignment.String() == o.Assignment.String() &&
		slices.EqualFunc(p.Unplaced.Containers, o.Unplaced.Containers, func(a, b gpu.ContainerRequest) bool {
			return a.Name == b.Name && a.Init == b.Init && slices.Equal(a.Asks, b.Asks)
		})
}

// GPU is one GPU of a node with what is left of it.
type GPU struct {
	gpu.Device
	// Idle: nobody holds any of it.
	Idle bool
	// FreeMilliGPU and FreeMemoryMiB are what shares can still take; 0 when the GPU is in MIG mode, held whole,
	// unhealthy or overbooked. An idle, healthy GPU has 1000 and all its memory, also when it is WholeOnly.
	FreeMilliGPU  int64
	FreeMemoryMiB int64
	// Partition is what instances can still be made, for a GPU in MIG mode; the zero State otherwise.
	Partition mig.State
	// Slices is the number of memory slices that instances can be made of in all, 0 when the GPU is not in MIG mode.
	Slices int
	// Used are the MIG instances held.
	Used []gpu.Instance
}

// Available reports whether the GPU can be given whole.
func (g *GPU) Available() bool { return g.Idle && !g.Unhealthy && !g.MIG }

// Withheld is what a node keeps back because pods hold it that nobody can place on GPUs.
type Withheld struct {
	// GPUs that must stay idle.
	GPUs int
	// Profiles of MIG instances that must stay possible, sorted.
	Profiles []string
}

// Node is one node at one moment. Immutable.
type Node struct {
	Name      string
	Inventory Inventory
	// Pods that hold GPUs, sorted by UID.
	Pods []Pod

	// GPUs are the inventory's devices, in order, with what is left of each. Read only.
	GPUs []GPU
	// Withheld is for pods without a known assignment.
	Withheld Withheld
	// IdleGPUs counts the GPUs that can be given whole, withheld ones included.
	IdleGPUs int
	// HasMIG says that some GPU is in MIG mode.
	HasMIG bool
}

// NewNode computes a node from what it reports and the pods on it. The pods may come in any order.
func NewNode(name string, inventory Inventory, pods []Pod) *Node {
	n := &Node{Name: name, Inventory: inventory, Pods: pods}
	if !slices.IsSortedFunc(pods, compareUID) {
		n.Pods = slices.SortedFunc(slices.Values(pods), compareUID)
	}
	n.GPUs = make([]GPU, len(inventory.Devices))
	for i, d := range inventory.Devices {
		n.GPUs[i] = GPU{Device: d, Idle: true}
		n.HasMIG = n.HasMIG || d.MIG
		if d.MIG {
			n.GPUs[i].Partition = inventory.Empty(i)
			n.GPUs[i].Slices = mig.FreeSlices(n.GPUs[i].Partition)
		}
	}
	whole := make([]int, len(n.GPUs))
	shared := make([]gpu.Use, len(n.GPUs))
	for p := range n.Pods {
		n.withhold(n.Pods[p].Unplaced)
		for _, u := range n.Pods[p].uses {
			i := n.index(u.GPU)
			if i < 0 {
				continue // vanished from the inventory
			}
			g := &n.GPUs[i]
			g.Idle = false
			if u.Whole {
				whole[i]++
			}
			shared[i].MilliGPU += u.MilliGPU
			shared[i].MemoryMiB += u.MemoryMiB
			for _, inst := range u.Instances {
				g.Partition = g.Partition.With(inst)
				g.Used = append(g.Used, inst)
			}
		}
	}
	for i := range n.GPUs {
		g := &n.GPUs[i]
		if g.MIG || g.Unhealthy || whole[i] > 0 || len(g.Used) > 0 {
			continue
		}
		g.FreeMilliGPU = max(0, gpu.WholeMilliGPU-shared[i].MilliGPU)
		g.FreeMemoryMiB = max(0, g.MemoryMiB-shared[i].MemoryMiB)
		if g.Idle {
			n.IdleGPUs++
		}
	}
	slices.Sort(n.Withheld.Profiles)
	return n
}

// withhold counts what a pod without a known assignment may be using.
func (n *Node) withhold(r gpu.Request) {
	for _, c := range r.Containers {
		for _, a := range c.Asks {
			switch a.Kind {
			case gpu.MIG:
				for range a.Count {
					n.Withheld.Profiles = append(n.Withheld.Profiles, a.Profile)
				}
			default:
				n.Withheld.GPUs += a.Count
			}
		}
	}
}

func (n *Node) index(id gpu.ID) int {
	return slices.IndexFunc(n.GPUs, func(g GPU) bool { return g.ID == id })
}

// Used reports whether any pod holds GPUs of the node.
func (n *Node) Used() bool { return len(n.Pods) > 0 }

// Pod finds a pod by UID.
func (n *Node) Pod(uid string) (Pod, bool) {
	i, ok := slices.BinarySearchFunc(n.Pods, uid, func(p Pod, uid string) int { return cmp.Compare(p.UID, uid) })
	if !ok {
		return Pod{}, false
	}
	return n.Pods[i], true
}

// With is the node with the pod on it, in place of any pod with the same UID.
func (n *Node) With(p Pod) *Node {
	i, ok := slices.BinarySearchFunc(n.Pods, p, compareUID)
	pods := make([]Pod, 0, len(n.Pods)+1)
	pods = append(pods, n.Pods[:i]...)
	pods = append(pods, p)
	if ok {
		i++
	}
	return NewNode(n.Name, n.Inventory, append(pods, n.Pods[i:]...))
}

// Without is the node without the pod; the node itself when it is not there.
func (n *Node) Without(uid string) *Node {
	i, ok := slices.BinarySearchFunc(n.Pods, uid, func(p Pod, uid string) int { return cmp.Compare(p.UID, uid) })
	if !ok {
		return n
	}
	return NewNode(n.Name, n.Inventory, slices.Delete(slices.Clone(n.Pods), i, i+1))
}

// WithInventory is the node with another inventory under the same pods.
func (n *Node) WithInventory(i Inventory) *Node { return NewNode(n.Name, i, n.Pods) }

func compareUID(a, b Pod) int { return cmp.Compare(a.UID, b.UID) }

// Conflicts lists, for people, every GPU that is given out more than it has: over 100 percent, more memory than it has,
// held whole beside others, overlapping MIG instances, or in two ways at once. Empty when all is well. A conflict cannot
// come from this program's decisions; it shows that somebody else wrote assignments.
func (n *Node) Conflicts() []string {
	var out []string
	for i := range n.GPUs {
		g := &n.GPUs[i]
		var whole, slicesHeld int
		var milli, mem int64
		var holders []string
		for _, p := range n.Pods {
			for _, u := range p.uses {
				if u.GPU != g.ID {
					continue
				}
				holders = append(holders, p.Name)
				if u.Whole {
					whole++
				}
				milli += u.MilliGPU
				mem += u.MemoryMiB
				for _, inst := range u.Instances {
					slicesHeld += bits.OnesCount64(inst.Slices())
				}
			}
		}
		what := ""
		switch {
		case whole > 1 || whole == 1 && len(holders) > 1:
			what = "is held whole beside others"
		case milli > gpu.WholeMilliGPU:
			what = fmt.Sprintf("is shared to %s", gpu.FormatPercent(milli))
		case mem > g.MemoryMiB:
			what = fmt.Sprintf("has %d MiB given of %d", mem, g.MemoryMiB)
		case slicesHeld > bits.OnesCount64(g.Partition.Used()):
			what = "has overlapping MIG instances"
		case slicesHeld > 0 && (milli > 0 || whole > 0):
			what = "is partitioned and shared at once"
		case g.MIG && (milli > 0 || whole > 0):
			what = "is in MIG mode but held whole or shared"
		default:
			continue
		}
		out = append(out, fmt.Sprintf("%s/%s %s by %v", n.Name, g.ID, what, holders))
	}
	return out
}

// AssignedMilliGPU is the part of GPU i that pods hold, in milli-GPU: 1000 when it is held whole; in MIG mode the part of
// its memory slices that instances take, rounded down. More than 1000 is a conflict.
func (n *Node) AssignedMilliGPU(i int) int64 {
	g := &n.GPUs[i]
	if g.MIG {
		if g.Slices == 0 {
			return 0
		}
		return gpu.WholeMilliGPU * int64(bits.OnesCount64(g.Partition.Used())) / int64(g.Slices)
	}
	var sum int64
	n.eachUse(g.ID, func(u gpu.Use) {
		sum += u.MilliGPU
		if u.Whole {
			sum += gpu.WholeMilliGPU
		}
	})
	return sum
}

// AssignedMemoryMiB is the memory of GPU i that shares hold, or all of it when it is held whole; 0 in MIG mode, where the
// instances say it.
func (n *Node) AssignedMemoryMiB(i int) int64 {
	g := &n.GPUs[i]
	var sum int64
	n.eachUse(g.ID, func(u gpu.Use) {
		sum += u.MemoryMiB
		if u.Whole {
			sum += g.MemoryMiB
		}
	})
	return sum
}

func (n *Node) eachUse(id gpu.ID, f func(gpu.Use)) {
	for p := range n.Pods {
		for _, u := range n.Pods[p].uses {
			if u.GPU == id {
				f(u)
			}
		}
	}
}
