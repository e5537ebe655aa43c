package cluster

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/nvlink"
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

	offers    []*mig.Offer // of each device, nil when it is not in MIG mode
	graph     *nvlink.Graph
	signature string // equal for equal devices, but for their ids
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
	inv.graph = nvlink.New(inv.Devices)
	inv.signature = sign(inv.Devices, inv.graph)
	return inv
}

// sign condenses what decisions depend on of the devices. They do not depend on how shares are kept apart, and of the hardware
// on how the GPUs are linked only, where that tells them apart.
func sign(devices []gpu.Device, links *nvlink.Graph) string {
	if len(devices) == 0 {
		return "" // as the zero Inventory
	}
	h := sha256.New()
	for _, d := range devices {
		fmt.Fprintf(h, "%q %d %t %t %t %t %v;", d.Product, d.MemoryMiB, d.Unhealthy, d.WholeOnly, d.SharedOnly, d.MIG, d.Instances)
	}
	h.Write(links.AppendKey(nil))
	return string(h.Sum(nil))
}

// Links is how the devices are linked to each other, by their places in Devices.
func (i Inventory) Links() *nvlink.Graph { return i.graph }

// Empty is the state of device i, which must be in MIG mode, when nothing on it is used.
func (i Inventory) Empty(device int) mig.State { return mig.NewState(i.offers[device], nil) }

// Equal reports whether two inventories say the same.
func (i Inventory) Equal(o Inventory) bool {
	return i.Source == o.Source && slices.Equal(i.Problems, o.Problems) &&
		slices.EqualFunc(i.Devices, o.Devices, gpu.Device.Equal)
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

// NewPod is a pod that holds an assignment, which must be valid.
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
	// unhealthy or overbooked. An idle, healthy GPU has 1000 and all its memory, also when it is WholeOnly or SharedOnly.
	FreeMilliGPU  int64
	FreeMemoryMiB int64
	// Partition is what instances can still be made, for a GPU in MIG mode; the zero State otherwise. When the GPU is
	// held whole or shared, from before it was in MIG mode, nothing can be made.
	Partition mig.State
	// Slices is the number of memory slices that instances can be made of in all, 0 when the GPU is not in MIG mode.
	Slices int
	// Used are the MIG instances held, by start.
	Used []gpu.Instance
}

// Available reports whether the GPU can be given whole.
func (g *GPU) Available() bool { return g.Idle && !g.Unhealthy && !g.MIG && !g.SharedOnly }

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
	// IdleShared counts the idle, healthy GPUs that are SharedOnly, withheld ones included.
	IdleShared int
	// HasMIG says that some GPU is in MIG mode.
	HasMIG bool
	// Signature is equal for nodes between which no decision about GPUs can tell a difference: the same devices in the
	// same order, but for their ids, linked in the same way, with the same left of each. Most nodes of a cluster are like
	// many others.
	Signature Signature
}

// Signature condenses the state of a node's GPUs; 128 bits, so that no two states share one by chance.
type Signature [16]byte

// NewNode computes a node from what it reports and the pods on it. The pods may come in any order.
func NewNode(name string, inventory Inventory, pods []Pod) *Node {
	n := &Node{Name: name, Inventory: inventory, Pods: pods}
	if !slices.IsSortedFunc(pods, compareUID) {
		n.Pods = slices.SortedFunc(slices.Values(pods), compareUID)
	}
	n.GPUs = make([]GPU, len(inventory.Devices))
	for i := range n.GPUs {
		g := &n.GPUs[i]
		g.Device, g.Idle = inventory.Devices[i], true
		n.HasMIG = n.HasMIG || g.MIG
		if g.MIG {
			g.Partition = inventory.Empty(i)
			g.Slices = mig.FreeSlices(g.Partition)
		}
	}
	whole := make([]int, len(n.GPUs))
	shared := make([]gpu.Use, len(n.GPUs))
	renamed := map[gpu.ID]gpu.Kind{}
	for p := range n.Pods {
		n.withhold(n.Pods[p].Unplaced)
		for _, u := range n.Pods[p].uses {
			i := n.index(u.GPU)
			if i < 0 {
				if known := inventory.Source != SourceLabels && !IsLabelGPU(u.GPU); known {
					continue // it vanished from the inventory
				}
				if u.Whole {
					renamed[u.GPU] = gpu.Whole
				} else if u.MilliGPU > 0 {
					renamed[u.GPU] = gpu.Shared
				}
				continue
			}
			g := &n.GPUs[i]
			g.Idle = false
			if u.Whole {
				whole[i]++
			}
			shared[i].MilliGPU += u.MilliGPU
			shared[i].MemoryMiB += u.MemoryMiB
			if g.MIG && (u.Whole || u.MilliGPU > 0) {
				g.Partition = g.Partition.With(gpu.Instance{Size: gpu.MaxMemorySlices})
			}
			for _, inst := range u.Instances {
				if g.MIG {
					g.Partition = g.Partition.With(inst)
				}
				g.Used = append(g.Used, inst)
			}
		}
	}
	for i := range n.GPUs {
		g := &n.GPUs[i]
		slices.SortFunc(g.Used, func(a, b gpu.Instance) int {
			return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.Profile, b.Profile))
		})
		if g.MIG || g.Unhealthy || whole[i] > 0 || len(g.Used) > 0 {
			continue
		}
		g.FreeMilliGPU = max(0, gpu.WholeMilliGPU-shared[i].MilliGPU)
		g.FreeMemoryMiB = max(0, g.MemoryMiB-shared[i].MemoryMiB)
		switch {
		case g.Idle && g.SharedOnly:
			n.IdleShared++
		case g.Idle:
			n.IdleGPUs++
		}
	}
	for _, kind := range renamed {
		for _, pool := range n.pools(gpu.Ask{Kind: kind}) {
			n.keep(pool, 1)
		}
	}
	slices.Sort(n.Withheld.Profiles)
	n.Signature = n.sign()
	return n
}

// labelGPUPrefix and a number is the id of a GPU that is known by labels only.
const labelGPUPrefix = "gpu-"

// LabelGPU is the id of GPU i of a node that is known by labels only. Such ids say how many GPUs are held, not which.
func LabelGPU(i int) gpu.ID { return gpu.ID(fmt.Sprintf("%s%d", labelGPUPrefix, i)) }

// IsLabelGPU reports whether the id is one that LabelGPU makes. UUIDs are not: they begin with "GPU-".
func IsLabelGPU(id gpu.ID) bool {
	number, ok := strings.CutPrefix(string(id), labelGPUPrefix)
	i, err := strconv.Atoi(number)
	return ok && err == nil && LabelGPU(i) == id
}

func (n *Node) sign() (s Signature) {
	b := make([]byte, 0, len(n.Inventory.signature)+8+8*len(n.GPUs))
	b = append(b, n.Inventory.signature...)
	b = binary.AppendUvarint(b, uint64(n.Withheld.GPUs))
	b = binary.AppendUvarint(b, uint64(n.Withheld.Shared))
	b = binary.AppendUvarint(b, uint64(len(n.Withheld.Profiles)))
	for _, p := range n.Withheld.Profiles {
		b = append(append(b, p...), ' ')
	}
	for i := range n.GPUs {
		g := &n.GPUs[i]
		idle := uint64(0)
		if g.Idle {
			idle = 1
		}
		b = binary.AppendUvarint(b, uint64(g.FreeMilliGPU)<<1|idle)
		b = binary.AppendUvarint(b, uint64(g.FreeMemoryMiB))
		b = binary.AppendUvarint(b, g.Partition.Used())
		b = binary.AppendUvarint(b, uint64(len(g.Used)))
		for _, u := range g.Used {
			b = append(append(b, u.String()...), ' ')
		}
	}
	if len(n.Pods) > 0 {
		b = append(b, 1)
	}
	sum := sha256.Sum256(b)
	copy(s[:], sum[:])
	return s
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
// held whole beside others, overlapping MIG instances, in two ways at once, or in a way that the node does not give it. Empty when all is well. A conflict cannot
// come from this program's decisions; it shows that somebody else wrote assignments, or that a GPU's mode was changed
// under the pods that hold it.
func (n *Node) Conflicts() []string {
	var out []string
	for i := range n.GPUs {
		if c := n.conflict(&n.GPUs[i]); c != "" {
			out = append(out, c)
		}
	}
	return out
}

func (n *Node) conflict(g *GPU) string {
	var whole int
	var milli, mem int64
	var slicesHeld uint64
	overlap := false
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
			// Those of one pod may overlap: an init container's and a later container's.
			var own uint64
			for _, inst := range u.Instances {
				own |= inst.Slices()
			}
			overlap = overlap || slicesHeld&own != 0
			slicesHeld |= own
		}
	}
	what := ""
	switch {
	case whole > 1 || whole == 1 && len(holders) > 1:
		what = "is held whole beside others"
	case slicesHeld > 0 && milli > 0:
		what = "is partitioned and shared at once"
	case milli > gpu.WholeMilliGPU:
		what = fmt.Sprintf("is shared to %s", gpu.FormatPercent(milli))
	case mem > g.MemoryMiB:
		what = fmt.Sprintf("has %d MiB given of %d", mem, g.MemoryMiB)
	case overlap:
		what = "has overlapping MIG instances"
	case g.MIG && (milli > 0 || whole > 0):
		what = "is in MIG mode but held whole or shared"
	case !g.MIG && slicesHeld > 0:
		what = "is not in MIG mode but partitioned"
	case g.SharedOnly && whole > 0:
		what = "is given in shares only but held whole"
	case g.WholeOnly && milli > 0:
		what = "is given whole only but shared"
	default:
		return ""
	}
	return fmt.Sprintf("%s/%s %s by %v", n.Name, g.ID, what, holders)
}

// CanGive reports why the node cannot give the pod what its assignment says, in place of what a pod of the same UID holds
// now; nil when it can.
func (n *Node) CanGive(p Pod) error {
	without := n.Without(p.UID)
	with := n.With(p)
	for _, u := range p.uses {
		i := n.index(u.GPU)
		if i < 0 || n.GPUs[i].Unhealthy {
			return fmt.Errorf("node %s has no healthy GPU %s", n.Name, u.GPU)
		}
		if c := with.conflict(&with.GPUs[i]); c != "" {
			return errors.New(c)
		}
		free := without.GPUs[i].Partition
		state := free
		for k, inst := range u.Instances {
			// Those of one pod may overlap: an init container's and a later container's.
			again := slices.ContainsFunc(u.Instances[:k], inst.Overlaps)
			if !free.CanGive(inst) || !again && !state.CanGive(inst) {
				return fmt.Errorf("%s/%s cannot give the MIG instance %s", n.Name, u.GPU, inst)
			}
			if !again {
				state = state.With(inst)
			}
		}
	}
	left := with.Spare()
	if with.IdleGPUs < without.IdleGPUs && left.GPUs < 0 || with.IdleShared < without.IdleShared && left.Shared < 0 {
		return fmt.Errorf("node %s withholds %d idle GPUs for pods that nobody knows the GPUs of", n.Name, with.Withheld.GPUs)
	}
	return nil
}

// AssignedMilliGPU is the part of GPU i that pods hold, in milli-GPU: 1000 when it is held whole; in MIG mode the part of
// its memory slices that instances take, rounded down, or 1000 when it is held in another way all the same. More than 1000
// is a conflict.
func (n *Node) AssignedMilliGPU(i int) int64 {
	g := &n.GPUs[i]
	if g.MIG {
		if g.Slices == 0 {
			return 0
		}
		return gpu.WholeMilliGPU * int64(g.Slices-mig.FreeSlices(g.Partition)) / int64(g.Slices)
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
