package gang

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/gang"
)

// oneByOne gives the members a place one after the other, in the order of rank: each the best that the other plugins let it have
// beside those before it. It begins in every domain of the required level, and with the first member in every
// part of the cluster that the members' rules tell apart. The result is nil where that leads nowhere; said is then how far it came
// and what the others say of the member that got no place. limits are those of the nodes before anything was tightened.
func (q *question) oneByOne(ctx context.Context, limits [][]int) (res *gang.Result, said string, err error) {
	return q.oneByOneWithin(ctx, limits, q.pl.newWork())
}

// oneByOneWithin is oneByOne for as much work as is left.
func (q *question) oneByOneWithin(ctx context.Context, limits [][]int, left *work) (res *gang.Result, said string, err error) {
	s := &oneByOne{q: q, placer: q.placer(limits), left: left}
	s.divide(slices.DeleteFunc(topologyKeys(q.shapes, false), func(k string) bool { return k == v1.LabelHostname }))
	for i, m := range q.Members {
		if m.Node == "" {
			s.members = append(s.members, i)
		}
	}
	if s.need = len(s.members); s.placer.Need() > 0 {
		s.need = s.placer.Need()
	}
	for domain := range s.placer.Domains() {
		s.placer.Begin(domain)
		begun := map[int]bool{}
		for _, first := range s.placer.Nodes(s.members[0]) {
			if part := s.part[first]; !begun[part] {
				begun[part] = true
				s.placer.Begin(domain)
				if res, err := s.place(ctx, first); err != nil || res != nil {
					return res, "", err
				}
			}
			if s.charge(); s.left.spent() {
				return nil, s.said(), ctx.Err()
			}
		}
	}
	return nil, s.said(), ctx.Err()
}

// placer is for the question with the limits.
func (q *question) placer(limits [][]int) *gang.Placer {
	p := q.Problem
	p.Nodes = slices.Clone(q.Nodes)
	for i := range limits {
		p.Nodes[i].Limit = limits[i]
	}
	return gang.NewPlacer(&p)
}

// samePlaces is the plan with every member on the same node, nil where that is not possible.
func (q *question) samePlaces(ctx context.Context, limits [][]int, plan *gang.Result) (*gang.Result, error) {
	return q.samePlacesWithin(ctx, limits, plan, q.pl.newWork())
}

// samePlacesWithin is samePlaces, which has its answer also where less work is left than it costs.
func (q *question) samePlacesWithin(ctx context.Context, limits [][]int, plan *gang.Result, left *work) (*gang.Result, error) {
	placer := q.placer(limits)
	left.spend(placer.Looked() / workNode)
	for _, at := range plan.Placements {
		if !placer.Put(at.Member, at.Node) {
			return nil, nil
		}
	}
	return q.verified(ctx, placer.Result(), left)
}

// verified is the plan, nil where the other plugins refuse it.
func (q *question) verified(ctx context.Context, res *gang.Result, left *work) (*gang.Result, error) {
	left.spend(len(res.Placements)*workVerify + 2*len(q.markers)*len(q.states)*workTell)
	switch _, _, status := q.verify(ctx, res); {
	case status.IsSuccess():
		return res, nil
	case status.IsRejected():
		return nil, nil
	default:
		return nil, status.AsError()
	}
}

// oneByOne is the state of that search.
type oneByOne struct {
	q       *question
	placer  *gang.Placer
	members []int // those without a place; the first need of them must have one
	need    int
	// part is the part of the cluster that each node is in, of parts that the members' rules about each other tell apart, but for
	// those that name one node; parts is how many there are.
	part  []int
	parts int
	// left is what the search may still cost, asked about how many places the other plugins were asked, and looked how many nodes of
	// those that the placer looked at are paid for.
	left          *work
	asked, looked int
	// best is how many members have a place at most, stuck the one that then has none, refused what is said of it.
	best    int
	stuck   int
	refused map[string]int
}

// topologyKeys are the node labels by which required rules of the shapes about other pods tell domains apart, those of spread
// constraints alone or all.
func topologyKeys(shapes []*shape, spread bool) (keys []string) {
	add := func(terms []v1.PodAffinityTerm) {
		for _, t := range terms {
			keys = append(keys, t.TopologyKey)
		}
	}
	for _, s := range shapes {
		for _, c := range s.pod.Spec.TopologySpreadConstraints {
			if c.WhenUnsatisfiable == v1.DoNotSchedule {
				keys = append(keys, c.TopologyKey)
			}
		}
		a := s.pod.Spec.Affinity
		if spread || a == nil {
			continue
		}
		if a.PodAffinity != nil {
			add(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		}
		if a.PodAntiAffinity != nil {
			add(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// divide finds the parts of the cluster, by the node labels.
func (s *oneByOne) divide(keys []string) {
	s.part = make([]int, len(s.q.infos))
	number := map[string]int{}
	for node, info := range s.q.infos {
		var b strings.Builder
		for _, k := range keys {
			v, ok := info.Node().Labels[k]
			fmt.Fprintf(&b, "%t %s\x00", ok, v)
		}
		part, known := number[b.String()]
		if !known {
			part = len(number)
			number[b.String()] = part
		}
		s.part[node] = part
	}
	s.parts = len(number)
	s.left.spend(len(s.part) / workNode)
}

// charge pays for what the placer has looked at.
func (s *oneByOne) charge() {
	units := (s.placer.Looked() - s.looked) / workNode
	s.looked += units * workNode
	s.left.spend(units)
}

// place places the members, the first one on the node; nil where one that must have a place gets none.
func (s *oneByOne) place(ctx context.Context, first int) (*gang.Result, error) {
	there, placed := s.q.empty(), 0
	for k, member := range s.members {
		nodes := []int{first}
		if k > 0 {
			nodes = s.placer.Nodes(member)
			s.charge()
		}
		var ok bool
		var refused map[string]int
		if !s.left.spent() {
			var err error
			if ok, refused, err = s.placeOne(ctx, there, member, nodes); err != nil {
				return nil, err
			}
		}
		if ok {
			placed++
			continue
		}
		if k < s.need && s.placer.Need() > 0 {
			if s.refused == nil || k > s.best {
				s.best, s.stuck, s.refused = k, member, refused
			}
			return nil, nil
		}
		if s.left.spent() {
			break // those above the minimum
		}
	}
	if placed == 0 {
		return nil, nil
	}
	return s.q.verified(ctx, s.placer.Result(), s.left)
}

// placeOne gives the member the first of the nodes that the other plugins let it have. What refuses it in one part of the cluster often
// does so in all of it, so the other nodes of that part are asked about last.
func (s *oneByOne) placeOne(ctx context.Context, there inPlace, member int, nodes []int) (ok bool, refused map[string]int, err error) {
	refused = map[string]int{}
	try := func(node int) error {
		s.asked++
		s.left.spend(workFilter)
		switch status := s.q.filter(ctx, there, member, node); {
		case status.IsRejected():
			for _, reason := range status.Reasons() {
				refused[reason]++
			}
			return nil
		case !status.IsSuccess():
			return status.AsError()
		case !s.placer.Put(member, node):
			return nil
		}
		ok = true
		s.left.spend((2*len(s.q.markers) + 1) * len(s.q.states) * workTell)
		if status := s.q.add(ctx, there.states, s.q.pods[member], s.q.touch(there, node)); !status.IsSuccess() {
			return status.AsError()
		}
		return s.q.settle(ctx, there.states).AsError()
	}
	var later []int
	refusing := make([]bool, s.parts)
	for _, node := range nodes {
		if part := s.part[node]; refusing[part] {
			later = append(later, node)
		} else if err := try(node); err != nil || ok || s.left.spent() {
			return ok, refused, err
		} else {
			refusing[part] = s.parts > 1
		}
	}
	s.left.spend(len(later) / (16 * workNode))
	for _, node := range later {
		if err := try(node); err != nil || ok || s.left.spent() {
			return ok, refused, err
		}
	}
	return false, refused, nil
}

// said is why the search found nothing, in words.
func (s *oneByOne) said() string {
	cut := ""
	if s.left.spent() {
		cut = fmt.Sprintf(" as far as was looked (the search was cut short after %d possibilities)", s.asked)
	}
	if s.refused == nil {
		return "no place was found for members beside each other" + cut
	}
	words := fmt.Sprintf("placed beside each other %d of at least %d members have a place", s.best, s.need) + cut
	words += ", and " + s.q.Members[s.stuck].Name
	if len(s.refused) == 0 && s.left.spent() {
		return words + " has none yet"
	}
	if len(s.refused) == 0 {
		return words + " has no room on any other node"
	}
	return words + " is refused: " + inWords(s.refused)
}

// inWords are the most frequent reasons for which nodes were refused.
func inWords(refused map[string]int) string {
	reasons := slices.SortedFunc(maps.Keys(refused), func(a, b string) int {
		return cmp.Or(cmp.Compare(refused[b], refused[a]), cmp.Compare(a, b))
	})
	var words []string
	for _, r := range reasons[:min(3, len(reasons))] {
		words = append(words, fmt.Sprintf("%d %s", refused[r], r))
	}
	return strings.Join(words, ", ")
}
