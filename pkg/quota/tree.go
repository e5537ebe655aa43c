package quota

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
)

// Tree is the queues, checked. It does not change.
type Tree struct {
	nodes map[string]*node
	names []string
	tops  []string
}

// node is a queue of the tree.
type node struct {
	spec     Spec
	parent   *node // nil at the top, and where the one above cannot be known
	children []string
	// problem is why the queue admits nothing, empty for one that is valid; culprit is the queue that is at fault: itself,
	// or one above.
	problem string
	culprit string
	// mostLimit is the highest of its limits, of all windows.
	mostLimit int64
}

// Problem is what is wrong with a queue, for its condition and for the pods that it holds back.
type Problem struct {
	Queue, Message string
}

// NewTree makes a tree of the queues, in any order. A queue that contradicts another, and all below it, stay in the tree
// but admit nothing; the problems say why, by name.
//
// Where two contradict, the older counts (Created, then name): of queues of one name all but the oldest are left out, and
// of children that are guaranteed more than their parent the youngest are invalid. Guarantees are compared outside of
// windows; within one an admin may promise more than there is for a while. A window that guarantees by itself what the parent never
// has is told as a problem, and the queue admits all the same. What runs in an invalid queue counts at those
// above it; where the parent does not exist, or is the queue itself or below it, none can be known, and the queue stands at
// the top.
func NewTree(specs []Spec) (*Tree, []Problem) {
	t := &Tree{nodes: make(map[string]*node, len(specs))}
	var problems []Problem
	specs = slices.Clone(specs)
	slices.SortStableFunc(specs, func(a, b Spec) int {
		return cmp.Or(cmp.Compare(a.Created, b.Created), cmp.Compare(a.Name, b.Name))
	})
	nodes := make([]*node, 0, len(specs)) // the oldest first
	for _, s := range specs {
		switch {
		case s.Name == "":
			problems = append(problems, Problem{Message: "a queue has no name, and is left out: it needs one"})
		case t.nodes[s.Name] != nil:
			problems = append(problems, Problem{Queue: s.Name, Message: fmt.Sprintf(
				"queue %s exists twice, and the younger is left out: names must be unique", s.Name)})
		default:
			n := &node{problem: problemOf(&s)}
			n.spec, n.mostLimit = repaired(s)
			t.nodes[s.Name] = n
			t.names = append(t.names, s.Name)
			nodes = append(nodes, n)
		}
	}
	slices.Sort(t.names)
	for _, n := range nodes {
		t.link(n)
	}
	for _, name := range t.names {
		if n := t.nodes[name]; n.parent != nil {
			n.parent.children = append(n.parent.children, name)
		} else {
			t.tops = append(t.tops, name)
		}
	}
	checkGuarantees(nodes)
	for _, n := range nodes {
		if n.problem != "" {
			n.culprit = n.spec.Name
		}
	}
	t.eachFromTop(func(n *node) {
		if p := n.parent; p != nil && p.problem != "" && n.problem == "" {
			n.culprit = p.culprit
			n.problem = fmt.Sprintf("queue %s is below queue %s, which is not valid: %s", n.spec.Name, p.culprit,
				t.nodes[p.culprit].problem)
		}
		if m := cmp.Or(n.problem, problemOfWindows(n)); m != "" {
			problems = append(problems, Problem{Queue: n.spec.Name, Message: m})
		}
	})
	slices.SortStableFunc(problems, func(a, b Problem) int { return cmp.Compare(a.Queue, b.Queue) })
	return t, problems
}

// problemOf is what is wrong with the queue by itself.
func problemOf(s *Spec) string {
	say := func(field string, found any, accepted string) string {
		return fmt.Sprintf("queue %s: %s is %v, must be %s", s.Name, field, found, accepted)
	}
	if m := problemOfShare(s.Share, "", say); m != "" {
		return m
	}
	if s.Weight < 1 {
		return say("weight", s.Weight, "at least 1")
	}
	for i, w := range s.Windows {
		if w.From < 0 || w.From > 86399 || w.To < 0 || w.To > 86399 {
			return say(fmt.Sprintf("window %d", i), fmt.Sprintf("from second %d to %d of the day", w.From, w.To), "0 to 86399")
		}
		if w.Days > 1<<7-1 {
			return say(fmt.Sprintf("window %d: days", i), w.Days, "at most 127, a bit for each day")
		}
		if m := problemOfShare(w.Share, fmt.Sprintf("window %d: ", i), say); m != "" {
			return m
		}
	}
	switch {
	case s.DefaultRuntime < 0:
		return say("default runtime", s.DefaultRuntime, "at least 0 seconds")
	case s.MaxRuntime < 0:
		return say("max runtime", s.MaxRuntime, "at least 0 seconds")
	case s.MaxRuntime > 0 && s.DefaultRuntime > s.MaxRuntime:
		return say("default runtime", fmt.Sprintf("%d seconds", s.DefaultRuntime),
			fmt.Sprintf("at most the max runtime of %d", s.MaxRuntime))
	}
	if b := s.Budget; b != nil {
		switch {
		case b.MilliGPUSeconds < 0:
			return say("budget", hours(b.MilliGPUSeconds, nearest)+" GPU-hours", "at least 0")
		case b.Period > PeriodYear:
			return say("budget: period", b.Period, "none, day, week, month, quarter or year")
		case b.Enforcement > Drain:
			return say("budget: enforcement", b.Enforcement, "notify, throttle, hold or drain")
		case b.RolloverPercent < 0:
			return say("budget: rollover percent", b.RolloverPercent, "at least 0")
		case b.DrainGrace < 0:
			return say("budget: drain grace", b.DrainGrace, "at least 0 seconds")
		}
		for _, p := range b.AlertPercents {
			if p < 1 {
				return say("budget: alert percent", p, "at least 1")
			}
		}
	}
	return ""
}

func problemOfShare(s Share, where string, say func(field string, found any, accepted string) string) string {
	switch {
	case s.Guaranteed < 0:
		return say(where+"guaranteed", gpus(s.Guaranteed)+" GPUs", "at least 0")
	case s.Limit < 0:
		return say(where+"limit", gpus(s.Limit)+" GPUs", "at least 0")
	case s.Limit < s.Guaranteed:
		return say(where+"limit", gpus(s.Limit)+" GPUs", "at least the guaranteed "+gpus(s.Guaranteed))
	}
	return ""
}

// repaired is the spec with values that can be computed with, whatever is wrong with it, and the highest of its limits.
func repaired(s Spec) (Spec, int64) {
	repair := func(sh Share) Share {
		g := max(sh.Guaranteed, 0)
		return Share{Guaranteed: g, Limit: max(sh.Limit, g)}
	}
	s.Weight, s.Share = max(s.Weight, 1), repair(s.Share)
	s.Windows = slices.Clone(s.Windows)
	most := s.Limit
	for i := range s.Windows {
		w := &s.Windows[i]
		w.Share = repair(w.Share)
		w.From, w.To = min(max(w.From, 0), 86399), min(max(w.To, 0), 86399)
		most = max(most, w.Limit)
	}
	return s, most
}

// link finds the queue above, where it exists and is not below.
func (t *Tree) link(n *node) {
	name, parent := n.spec.Name, n.spec.Parent
	if parent == "" {
		return
	}
	set := func(m string) {
		if n.problem == "" {
			n.problem = m
		}
	}
	above := t.nodes[parent]
	switch {
	case above == nil:
		set(fmt.Sprintf("queue %s: parent %s does not exist; must be a queue, or empty at the top", name, parent))
	case above == n:
		set(fmt.Sprintf("queue %s is its own parent; must be another queue, or empty at the top", name))
	default:
		// Only who is on the circle himself is at fault; who leads to one finds that he comes back to another. No way is
		// longer than there are queues.
		at := above
		for range t.names {
			if at == nil || at == n {
				break
			}
			at = t.nodes[at.spec.Parent]
		}
		if at == n {
			set(fmt.Sprintf("queue %s: parent %s is below it; must be a queue that is not, or empty at the top", name, parent))
			return
		}
		n.parent = above
	}
}

// checkGuarantees finds who is guaranteed what the parent does not have; nodes are the oldest first.
func checkGuarantees(nodes []*node) {
	given := make(map[*node]wide, len(nodes))
	for _, n := range nodes {
		p := n.parent
		if p == nil || n.problem != "" || n.spec.Guaranteed == 0 {
			continue
		}
		sum := given[p]
		before := sum.value()
		sum.add(n.spec.Guaranteed, 1)
		if sum.value() > p.spec.Guaranteed {
			n.problem = fmt.Sprintf(
				"queue %s: guaranteed is %s GPUs, must be at most %s: parent %s is guaranteed %s, of which older queues have %s",
				n.spec.Name, gpus(n.spec.Guaranteed), gpus(p.spec.Guaranteed-before), p.spec.Name, gpus(p.spec.Guaranteed), gpus(before))
			continue
		}
		given[p] = sum
	}
}

// problemOfWindows says of the first window that guarantees more than the parent ever has. It holds nothing back.
func problemOfWindows(n *node) string {
	if n.parent == nil {
		return ""
	}
	most := n.parent.spec.Guaranteed
	for _, w := range n.parent.spec.Windows {
		most = max(most, w.Guaranteed)
	}
	for i, w := range n.spec.Windows {
		if w.Guaranteed > most && w.Guaranteed > n.spec.Guaranteed {
			return fmt.Sprintf("queue %s admits pods, but window %d: guaranteed is %s GPUs, should be at most %s: parent %s is never guaranteed more",
				n.spec.Name, i, gpus(w.Guaranteed), gpus(most), n.parent.spec.Name)
		}
	}
	return ""
}

// eachFromTop visits all queues, each after the one above it.
func (t *Tree) eachFromTop(visit func(n *node)) {
	todo := slices.Clone(t.tops)
	for i := 0; i < len(todo); i++ {
		n := t.nodes[todo[i]]
		visit(n)
		todo = append(todo, n.children...)
	}
}

// Names are all queues, sorted.
func (t *Tree) Names() []string { return slices.Clone(t.names) }

// Spec is the spec of the queue as it counts, and false where there is none.
func (t *Tree) Spec(queue string) (Spec, bool) {
	n := t.nodes[queue]
	if n == nil {
		return Spec{}, false
	}
	return n.spec, true
}

// Problem is why the queue admits nothing, and the queue that is at fault: itself or one above. Both are empty for a valid
// queue and for one that does not exist.
func (t *Tree) Problem(queue string) (message, culprit string) {
	n := t.nodes[queue]
	if n == nil {
		return "", ""
	}
	return n.problem, n.culprit
}

// Path is the queue and those above it up to the top, nil for one that does not exist.
func (t *Tree) Path(queue string) []string {
	var path []string
	for n := t.nodes[queue]; n != nil; n = n.parent {
		path = append(path, n.spec.Name)
	}
	return path
}

// Children are the queues right below, sorted; of "" those at the top.
func (t *Tree) Children(queue string) []string {
	if queue == "" {
		return slices.Clone(t.tops)
	}
	if n := t.nodes[queue]; n != nil {
		return slices.Clone(n.children)
	}
	return nil
}

// ShareAt is what may run at the same time at that moment: the queue's own share, or that of the window that is open. The zero
// Share for a queue that does not exist.
func (t *Tree) ShareAt(queue string, now int64) Share {
	n := t.nodes[queue]
	if n == nil {
		return Share{}
	}
	return n.shareAt(now)
}

func (n *node) shareAt(now int64) Share {
	for i := range n.spec.Windows {
		if w := &n.spec.Windows[i]; w.openAt(now) {
			return w.Share
		}
	}
	return n.spec.Share
}

// NextChange is the next moment after now at which a window opens or closes or a period begins, NoLimit when none ever does.
func (t *Tree) NextChange(now int64) int64 {
	next := NoLimit
	for _, n := range t.nodes {
		next = min(next, n.nextWindow(now))
		if b := n.spec.Budget; b != nil {
			if _, end := b.PeriodAt(now); end > now {
				next = min(next, end)
			}
		}
	}
	return next
}

// nextWindow is the next moment after now at which one of the queue's windows opens or closes.
func (n *node) nextWindow(now int64) int64 {
	next := NoLimit
	for i := range n.spec.Windows {
		next = min(next, n.spec.Windows[i].nextChange(now))
	}
	return next
}

// gpus is milli-GPU in GPUs.
func gpus(milli int64) string {
	if milli == NoLimit {
		return "unlimited"
	}
	return strconv.FormatFloat(float64(milli)/1000, 'f', -1, 64)
}
