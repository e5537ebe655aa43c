package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podgroup"
)

// NewGangAnswer says why the gang waits, or where it is, in the cluster that the objects show; false when no PodGroup and no pod
// has the name. levels are the scheduler's topology levels.
func NewGangAnswer(namespace, name string, o Objects, schedulerName string, levels []string) (GangAnswer, bool) {
	groups := groupsOf(o)
	i := slices.IndexFunc(groups, func(g *group) bool { return g.Namespace == namespace && g.Name == name })
	if i < 0 {
		return GangAnswer{}, false
	}
	return newView(o).explain(groups[i], schedulerName, levels), true
}

// explain is NewGangAnswer for the gang.
func (v *view) explain(g *group, schedulerName string, levels []string) GangAnswer {
	c := g.count()
	a := GangAnswer{
		APIVersion: APIVersion, Kind: "GangAnswer", Namespace: g.Namespace, PodGroup: g.Name, Source: g.Source.String(),
		MinMembers: g.spec.Min, TopologyRequired: g.spec.Required, TopologyPreferred: g.spec.Preferred,
		OnMemberLost: string(g.spec.Lost), OnPartialStart: string(g.spec.Partial), PartialGraceSeconds: int64(g.spec.Grace.Seconds()),
		Phase: g.phaseOf(c), StatusMessage: g.message, Counts: c, Missing: g.missing(), Shapes: []Shape{}, Used: []LevelUse{},
		Level: cmp.Or(g.spec.Required, g.spec.Preferred), Domains: []Domain{}, Pods: []Member{}, NotChecked: []string{},
	}
	for _, p := range g.pods {
		a.Pods = append(a.Pods, Member{Pod: p.Name, State: memberState(p), Node: p.Spec.NodeName})
		if s := said(p); a.Said == nil && memberState(p) == MemberPending {
			a.Said = s
		}
	}
	members := g.planned()
	if len(g.pods) > 0 {
		first := slices.Concat(members, g.pods)[0]
		a.SchedulerName = first.Spec.SchedulerName
		if first.Spec.Priority != nil {
			a.Priority = int(*first.Spec.Priority)
		}
	}
	need := g.spec.Min
	if len(members) < need {
		need -= c.Succeeded
	}
	q, r := v.ask(g, members, need, levels)
	if r.OK() {
		a.describe(q)
	}
	a.decide(g, q, cmpReject(g.refusal(members, levels), r), members, need, schedulerName)
	return a
}

// cmpReject is the first that is a rejection.
func cmpReject(all ...fit.Rejection) fit.Rejection {
	for _, r := range all {
		if !r.OK() {
			return r
		}
	}
	return fit.Rejection{}
}

// refusal is why the gang cannot be planned whatever is free, in the order in which the scheduler looks.
func (g *group) refusal(members []*v1.Pod, levels []string) fit.Rejection {
	if !g.invalid.OK() {
		return g.invalid
	}
	for _, level := range []string{g.spec.Required, g.spec.Preferred} {
		if level != "" && !slices.Contains(levels, level) {
			return fit.Rejection{
				Reason: fit.UnknownTopology, Detail: fmt.Sprintf("%s names %q, the levels are %s", g.Key, level, strings.Join(levels, ", ")),
				Advice: "name one of the levels in the scheduler's configuration; tell this command of others with --topology-levels",
			}
		}
	}
	if err := podgroup.Check(g.spec, members); err != nil {
		return fit.Rejection{Reason: fit.InvalidGang, Detail: err.Error()}
	}
	return fit.Rejection{}
}

// describe fills in what the members ask for and where those are that have a place.
func (a *GangAnswer) describe(q *question) {
	a.Nodes = len(q.Nodes)
	var nodes []string
	for _, m := range q.Members {
		if m.Node != "" {
			nodes = append(nodes, m.Node)
		}
	}
	a.use(q, nodes)
	for i := range q.shapes {
		a.Shapes = append(a.Shapes, q.shape(i))
		for _, what := range unchecked(q.shapes[i].pod) {
			if !slices.Contains(a.NotChecked, what) {
				a.NotChecked = append(a.NotChecked, what)
			}
		}
	}
}

// use says which domains the members are in, or would be.
func (a *GangAnswer) use(q *question, nodes []string) {
	a.Used = q.used(nodes)
	l := slices.Index(q.Levels, a.Level)
	if l < 0 {
		return
	}
	for i := range a.Pods {
		at := cmp.Or(a.Pods[i].Node, a.Pods[i].WouldGoTo)
		for _, n := range q.Nodes {
			if n.Name == at {
				a.Pods[i].Domain = n.Domains[l]
			}
		}
	}
}

// decide sets the verdict and what goes with it. q is nil where r says why.
func (a *GangAnswer) decide(g *group, q *question, r fit.Rejection, members []*v1.Pod, need int, schedulerName string) {
	c := a.Counts
	switch {
	case g.basic:
		a.Verdict, a.Message = VerdictNotGang, "is no gang: its pods are scheduled by themselves"
	case len(members) == 0 && c.Members == 0 && c.Succeeded+c.Failed > 0:
		a.Verdict = VerdictEnded
		a.Message = fmt.Sprintf("has ended: %d of its pods succeeded, %d failed", c.Succeeded, c.Failed)
	case !g.exists && g.invalid.OK():
		a.Verdict, a.Message = VerdictInvalid, "cannot be explained: its PodGroup could not be read"
	case !r.OK():
		a.Verdict, a.Message = VerdictInvalid, "will not be placed, whatever is free"
		a.reject(r)
	case a.SchedulerName != "" && a.SchedulerName != schedulerName && c.Pending > 0:
		a.Verdict = VerdictOtherScheduler
		a.Message = fmt.Sprintf("has members that name schedulerName %s, not %s: weft does not look at them", a.SchedulerName, schedulerName)
	case len(members) < need:
		a.Verdict, a.Message = VerdictIncomplete, a.incomplete(need)
		detail := fmt.Sprintf("%s has %d of at least %d", g.Key, len(members), need)
		r = fit.Rejection{Reason: fit.GangIncomplete, Detail: detail}
		if c.Members >= need {
			r.Advice = "remove the scheduling gates of its members, or have whoever set them do so"
		}
		a.reject(r)
	case q.unplaced() == 0:
		a.Verdict, a.Message = VerdictPlaced, fmt.Sprintf("has a place for %s", allOf(c.Bound))
		if c.Gated > 0 {
			a.Message += fmt.Sprintf("; scheduling gates hold back %d more", c.Gated)
		}
	default:
		a.plan(q)
	}
}

// incomplete says what there is of a gang that is short of members.
func (a *GangAnswer) incomplete(need int) string {
	c := a.Counts
	there := c.Pending + c.Bound
	s := fmt.Sprintf("waits for members: %d of at least %d", there, need)
	switch {
	case there == 1:
		s += " exists"
	default:
		s += " exist"
	}
	if c.Gated > 0 {
		s += fmt.Sprintf(" and may be placed; scheduling gates hold back %d more", c.Gated)
	}
	return s
}

// plan asks the planner.
func (a *GangAnswer) plan(q *question) {
	missing := q.unplaced()
	placed := len(q.Members) - missing
	a.Domains = q.domains(a.Level)
	res, r := gang.Plan(&q.Problem)
	if !r.OK() {
		a.Verdict = VerdictDoesNotFit
		a.reject(r)
		switch {
		case placed == 0 && q.Min < missing:
			a.Message = fmt.Sprintf("has no room now for %d of its %d members, its minimum", q.Min, missing)
		case placed == 0:
			a.Message = fmt.Sprintf("has no room now for its %s", count(missing, "member"))
		case placed >= q.Min:
			a.Message = fmt.Sprintf("runs with %s, and has no room now for %d more, which it can do without", count(placed, "member"), missing)
		default:
			a.Message = fmt.Sprintf("has %d of at least %d members placed, and no room now for the others", placed, a.MinMembers)
		}
		return
	}
	a.Verdict, a.Surplus = VerdictFits, len(res.Surplus)
	to := map[string]string{}
	var nodes []string
	for _, p := range res.Placements {
		to[q.pods[p.Member].Name] = q.Nodes[p.Node].Name
	}
	for i, m := range q.Members {
		if at := cmp.Or(m.Node, to[q.pods[i].Name]); at != "" {
			nodes = append(nodes, at)
		}
	}
	for i := range a.Pods {
		if a.Pods[i].State == MemberPending {
			a.Pods[i].WouldGoTo = to[a.Pods[i].Pod]
		}
	}
	a.use(q, nodes)
	switch {
	case placed > 0:
		a.Message = fmt.Sprintf("has %s placed, and room now for %d more", count(placed, "member"), len(res.Placements))
	case a.Surplus > 0:
		a.Message = fmt.Sprintf("has room now for %d of %d members", len(res.Placements), len(q.Members))
	default:
		a.Message = fmt.Sprintf("has room now for %s", allOf(len(res.Placements)))
	}
	if where := whereText(a.Used, len(distinct(nodes))); where != "" {
		a.Message += ", on " + where
	}
	if a.Surplus > 0 {
		a.Message += fmt.Sprintf("; it can do without the other %d", a.Surplus)
	}
	a.WaitsFor = fmt.Sprintf("the scheduler named %s, which has said nothing of it yet; if that lasts, see whether it is running", a.SchedulerName)
	if a.Said != nil {
		a.WaitsFor = "the scheduler's next attempt; if that does not come, something stands in the way that is not checked here, such as " +
			"room that is kept for another gang"
	}
}

func (a *GangAnswer) reject(r fit.Rejection) {
	a.Reason, a.Text, a.Detail, a.Advice = r.Reason.String(), r.Reason.Text(), r.Detail, cmp.Or(r.Advice, r.Reason.Advice())
	a.Event, a.Resolvable = r.Reason.Event().String(), r.Reason.Resolvable()
}

// allOf is so many members, in words.
func allOf(n int) string {
	switch n {
	case 1:
		return "its member"
	case 2:
		return "both members"
	}
	return fmt.Sprintf("all %d members", n)
}

func distinct(names []string) []string {
	out := slices.Clone(names)
	slices.Sort(out)
	return slices.Compact(out)
}

// levelText is a level in a word or two: "rack" for topology.kubernetes.io/rack.
func levelText(level string) string {
	if level == gang.LevelNVLink {
		return "NVLink domain"
	}
	return strings.TrimPrefix(level[strings.LastIndex(level, "/")+1:], "gpu.")
}

// whereText is what members use of the topology, from the widest level to the nodes: "1 block, 2 racks, 16 nodes". NVLink domains
// that are single nodes are left out, and so are cliques, which are NVLink domains by another name.
func whereText(used []LevelUse, nodes int) string {
	var parts []string
	for _, u := range slices.Backward(used) {
		if u.Level == gang.LevelNVLink && !slices.ContainsFunc(u.Domains, func(d string) bool { return !strings.Contains(d, "/") }) {
			continue
		}
		if i := slices.IndexFunc(used, func(o LevelUse) bool { return o.Level == gang.LevelNVLink }); u.Level != gang.LevelNVLink && i >= 0 &&
			slices.Equal(u.Domains, used[i].Domains) {
			continue
		}
		parts = append(parts, count(len(u.Domains), levelText(u.Level)))
	}
	if nodes > 0 {
		parts = append(parts, count(nodes, "node"))
	}
	return strings.Join(parts, ", ")
}
