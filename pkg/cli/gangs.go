package cli

import (
	"cmp"
	"slices"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/podgroup"
)

// podGroups are the names of the PodGroups of the pods that are on a node, by namespace/name of the pod.
func podGroups(pods []*v1.Pod) map[string]string {
	out := map[string]string{}
	for _, p := range pods {
		if k, ok := podgroup.KeyOf(p); ok && p.Spec.NodeName != "" {
			out[p.Namespace+"/"+p.Name] = k.Name
		}
	}
	return out
}

// gangs are the gangs of the report.
func (v *view) gangs(groups []*group, r Report, s Selection) []Gang {
	out := []Gang{}
	everything := len(s.Names) == 0 && (s.Labels == nil || s.Labels.Empty()) && len(s.Products) == 0
	shown, domains := map[string]bool{}, map[string][]string{}
	for _, n := range r.Nodes {
		shown[n.Name] = true
	}
	for _, n := range v.nodes {
		domains[n.Name] = podgroup.Domains(n.Labels, n.Name, s.Levels)
	}
	for _, g := range groups {
		if g.basic {
			continue
		}
		gang := g.report()
		here := everything
		for _, p := range g.pods {
			if state := memberState(p); state == MemberBound || state == MemberRunning {
				gang.OnNodes = append(gang.OnNodes, p.Spec.NodeName)
				gang.HeldMilliGPU += v.heldMilliGPU(p)
				here = here || shown[p.Spec.NodeName]
			}
		}
		if !here {
			continue
		}
		gang.OnNodes = append([]string{}, distinct(gang.OnNodes)...)
		gang.Used = levelsUsed(s.Levels, gang.OnNodes, domains)
		out = append(out, gang)
	}
	return out
}

// report is the part of a gang's report that follows from its PodGroup and the states of its pods.
func (g *group) report() Gang {
	c := g.count()
	out := Gang{
		Namespace: g.Namespace, PodGroup: g.Name, Source: g.Source.String(), Phase: g.phaseOf(c), MinMembers: g.spec.Min, Counts: c,
		TopologyRequired: g.spec.Required, TopologyPreferred: g.spec.Preferred, OnNodes: []string{}, Used: []LevelUse{},
	}
	switch {
	case !g.invalid.OK():
		out.Problem = g.invalid.Message()
	case !g.exists:
		out.Problem = "its PodGroup could not be read"
	}
	return out
}

// bySize orders gangs for people: those that hold most GPUs first, and those that hold none by their names.
func bySize(gangs []Gang) []Gang {
	return slices.SortedStableFunc(slices.Values(gangs), func(a, b Gang) int { return cmp.Compare(b.HeldMilliGPU, a.HeldMilliGPU) })
}
