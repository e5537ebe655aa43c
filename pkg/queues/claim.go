package queues

import (
	"cmp"
	"math/bits"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/quota"
)

// Holds is what a bound pod holds, class by class, largest first: one part for most pods.
type Holds struct {
	Class    Class
	Product  string
	Profile  string
	MilliGPU int64
}

// compareHolds has the larger part first.
func compareHolds(a, b Holds) int {
	return cmp.Or(cmp.Compare(b.MilliGPU, a.MilliGPU), strings.Compare(a.Profile, b.Profile))
}

// HoldsOf is what an assignment holds on a node: whole GPUs count 1000, shares what they are, MIG instances their part of the
// GPU's memory slices. Of these there are memorySlices, or as many as GPUs of the product have where that is 0. The node may be nil
// where it is not known: it then has no labels.
func (s *Set) HoldsOf(a gpu.Assignment, node *v1.Node, product string, memorySlices int) []Holds {
	return s.onNode(assigned(a, product, memorySlices), node, product)
}

// onNode gives each part the class that it has on the node.
func (s *Set) onNode(parts []part, node *v1.Node, product string) []Holds {
	var nodeLabels map[string]string
	if node != nil {
		nodeLabels = node.Labels
	}
	out := make([]Holds, 0, len(parts))
	for _, p := range parts {
		out = append(out, Holds{s.ClassOn(nodeLabels, product, p.profile), product, p.profile, p.milliGPU})
	}
	slices.SortFunc(out, compareHolds)
	return out
}

// part is an amount of one kind: of instances of a profile, or of whole GPUs and shares, for which the profile is empty.
type part struct {
	profile  string
	milliGPU int64
}

// defaultSlices are the memory slices of every GPU in pkg/mig's tables but the A30.
const defaultSlices = 8

// slicesOf is the number of memory slices of a GPU of the product.
func slicesOf(product string) int {
	if t, ok := mig.TableByProduct(model(product)); ok {
		return t.MemorySlices
	}
	return defaultSlices
}

// assigned is what an assignment holds, by profile. An init container's instances may overlap those of the containers after it:
// a memory slice counts once.
func assigned(a gpu.Assignment, product string, memorySlices int) []part {
	if memorySlices <= 0 {
		memorySlices = slicesOf(product)
	}
	var direct int64
	taken := map[string]int{}
	for _, u := range a.Uses() {
		if u.Whole {
			direct += gpu.WholeMilliGPU
		}
		direct += u.MilliGPU
		var seen uint64
		for _, i := range u.Instances {
			taken[i.Profile] += bits.OnesCount64(i.Slices() &^ seen)
			seen |= i.Slices()
		}
	}
	var out []part
	if direct > 0 {
		out = append(out, part{"", direct})
	}
	for profile, n := range taken {
		out = append(out, part{profile, ofSlices(n, memorySlices)})
	}
	return out
}

// ofSlices is so many memory slices in milli-GPU, rounded up.
func ofSlices(n, of int) int64 {
	return (int64(n)*gpu.WholeMilliGPU + int64(of) - 1) / int64(of)
}

// wanted is the most that the request holds at any time, by profile. The sizes of instances are those of the product, or where that
// is not known the smallest that any product has.
func wanted(r gpu.Request, product string) []part {
	type amount struct{ running, most int64 }
	all := map[string]*amount{}
	for _, c := range r.Containers {
		for _, a := range c.Asks {
			each := gpu.WholeMilliGPU
			switch a.Kind {
			case gpu.Shared:
				each = a.MilliGPU
			case gpu.MIG:
				each = instance(a.Profile, product)
			}
			n := all[a.Profile]
			if n == nil {
				n = &amount{}
				all[a.Profile] = n
			}
			// An ask for whole GPUs and one for shares never stand in one container.
			n.most = max(n.most, n.running+int64(a.Count)*each)
			if !c.Init {
				n.running += int64(a.Count) * each
			}
		}
	}
	var out []part
	for profile, n := range all {
		out = append(out, part{profile, n.most})
	}
	return out
}

// instance is what an instance of the profile counts on a GPU of the product. One of a profile that is in no table counts its part of
// the compute slices.
func instance(profile, product string) int64 {
	if t, ok := mig.TableByProduct(model(product)); ok {
		if p, ok := t.Profile(profile); ok {
			return ofSlices(p.Size, t.MemorySlices)
		}
	}
	if n, ok := smallest[profile]; ok {
		return n
	}
	return mig.MilliGPU(profile)
}

// smallest is what an instance of each profile counts at least.
var smallest = func() map[string]int64 {
	out := map[string]int64{}
	for _, t := range mig.Tables() {
		for _, p := range t.Profiles {
			n := ofSlices(p.Size, t.MemorySlices)
			if was, ok := out[p.Name]; !ok || n < was {
				out[p.Name] = n
			}
		}
	}
	return out
}()

// Claim is what a pod that is bound to the node holds of its queue, from its annotation weft.sh/gpus; without node it is what a
// pod that waits wants (podspec.Estimate), on the cheapest class that it may run on: what no class can afford need not be tried.
// A pod that ended has an End, and so has one that is being deleted of which no container runs any more; when the deletion of another
// is seen, the End is that moment, which the caller knows. The queue is the one that the pod names also where it may not use it or does not exist: what runs is
// counted. But a pod that Weft did not bind, so that it has no annotation, has none if it may not use it. False for a pod that holds and asks for no GPU.
func (s *Set) Claim(pod *v1.Pod, node *v1.Node) (quota.Claim, bool) {
	r := request(pod)
	if r.Empty() {
		return quota.Claim{}, false
	}
	c := s.claim(pod)
	if pod.Spec.NodeName != "" {
		c.Start = podspec.BoundAt(pod)
		_, finished, stopped := podspec.Ran(pod)
		if !podspec.Bound(pod) || pod.DeletionTimestamp != nil && stopped {
			if finished == 0 {
				finished = podspec.ChangedAt(pod)
			}
			c.End = max(finished, c.Start)
		}
	}
	if node == nil {
		s.fill(&c, s.cheapest(r, partsOf(pod, r, "")))
		return c, true
	}
	product := node.Labels[podspec.LabelProduct]
	s.fill(&c, s.onNode(partsOf(pod, r, product), node, product))
	return c, true
}

// ClaimOn is the claim that the pod would have on the node, to be checked before it is bound.
func (s *Set) ClaimOn(pod *v1.Pod, node *v1.Node) (quota.Claim, bool) {
	r := request(pod)
	if r.Empty() {
		return quota.Claim{}, false
	}
	c := s.claim(pod)
	product := node.Labels[podspec.LabelProduct]
	s.fill(&c, s.onNode(wanted(r, product), node, product))
	return c, true
}

// ClassesOf are the names of the classes that the largest part of what the pod asks for may be of, on nodes that may exist: "" for
// GPUs of no class. nil where there are no classes.
func (s *Set) ClassesOf(pod *v1.Pod) []string {
	r := request(pod)
	parts := wanted(r, "")
	if len(s.classes) == 0 || len(parts) == 0 {
		return nil
	}
	largest := slices.MaxFunc(parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(a.milliGPU, b.milliGPU), strings.Compare(b.profile, a.profile))
	})
	var out []string
	for c := range s.classesOf(r.Products, largest.profile) {
		out = append(out, c.Name)
	}
	return out
}

// request is what the pod asks for, or may be holding where that cannot be read.
func request(pod *v1.Pod) gpu.Request {
	r, err := podspec.Request(pod)
	if err != nil {
		return podspec.Estimate(pod)
	}
	return r
}

// partsOf is what the pod holds where that is known, else what it asks for.
func partsOf(pod *v1.Pod, r gpu.Request, product string) []part {
	if pod.Spec.NodeName != "" {
		if a, err := podspec.Assignment(pod, r); err == nil {
			return assigned(a, product, 0)
		}
	}
	return wanted(r, product)
}

// cheapest gives each part the class of least weight that it may be of.
func (s *Set) cheapest(r gpu.Request, parts []part) []Holds {
	out := make([]Holds, 0, len(parts))
	for _, p := range parts {
		var class *Class
		for c := range s.classesOf(r.Products, p.profile) {
			if class == nil || c.WeightMilli < class.WeightMilli {
				class = c
			}
		}
		out = append(out, Holds{Class: *class, Profile: p.profile, MilliGPU: p.milliGPU})
	}
	slices.SortFunc(out, compareHolds)
	return out
}

// claim is a claim without GPUs and times.
func (s *Set) claim(pod *v1.Pod) quota.Claim {
	queue := s.queueOf(pod)
	// What somebody else bound is not charged to whom it likes.
	if _, ours := pod.Annotations[podspec.AnnotationGPUs]; !ours && pod.Spec.NodeName != "" {
		if q := s.queues[queue]; q != nil && !s.mayUse(pod.Namespace, q) {
			queue = ""
		}
	}
	c := quota.Claim{ID: string(pod.UID), Queue: queue, Runtime: s.runtime(pod, queue), Queued: pod.CreationTimestamp.Unix()}
	if key, ok := podgroup.KeyOf(pod); ok {
		c.Job = key.String()
	}
	if p := pod.Spec.Priority; p != nil {
		c.Priority = *p
	}
	return c
}

// fill adds the GPUs. The class of several is that of the largest part.
func (s *Set) fill(c *quota.Claim, holds []Holds) {
	for i, h := range holds {
		if i == 0 {
			c.Class = h.Class.Name
		}
		c.MilliGPU += h.MilliGPU
		c.Rate += h.Class.Rate(h.MilliGPU)
	}
}
