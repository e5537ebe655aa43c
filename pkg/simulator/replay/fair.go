package replay

import "weft.sh/weft/pkg/quota"

// claimant is a queue as it is entitled to a part of the cluster, or the jobs right in a queue that has others below. Lists have each
// after the one above it.
type claimant struct {
	parent                    int // -1 at the top
	guaranteed, limit, weight float64
	// demand is what its own jobs have and want; with those below after collect.
	demand float64
	// entitled is what it would have if the cluster were shared without loss.
	entitled float64
}

// entitle computes what each is entitled to of so much: of what all above it get, the smaller of its guarantee and its demand, and of
// what is left then as much as its weight says, until its demand is met. So who wants less than its part leaves the rest to the others,
// and who wants nothing is entitled to nothing.
func entitle(list []claimant, capacity float64) {
	children := make([][]int, len(list)+1) // of the top last
	top := len(list)
	for i := len(list) - 1; i >= 0; i-- {
		c := &list[i]
		c.demand = min(c.demand, c.limit)
		if c.parent >= 0 {
			list[c.parent].demand += c.demand
			children[c.parent] = append(children[c.parent], i)
		} else {
			children[top] = append(children[top], i)
		}
	}
	divide(list, children[top], capacity)
	for i := range list {
		divide(list, children[i], list[i].entitled)
	}
}

// divide gives an amount to siblings.
func divide(list []claimant, siblings []int, amount float64) {
	sum := 0.0
	for _, i := range siblings {
		c := &list[i]
		c.entitled = min(c.demand, c.guaranteed)
		sum += c.entitled
	}
	if sum > amount { // nodes are away
		for _, i := range siblings {
			list[i].entitled *= amount / sum
		}
		return
	}
	rest := amount - sum
	for {
		weights := 0.0
		for _, i := range siblings {
			if list[i].entitled < list[i].demand {
				weights += list[i].weight
			}
		}
		if weights == 0 || rest <= 0 {
			return
		}
		// Whose demand is met by less than its part gets that first; there are as many rounds as siblings at most.
		met, part := 0.0, rest/weights
		for _, i := range siblings {
			if c := &list[i]; c.entitled < c.demand && c.demand-c.entitled <= part*c.weight {
				met += c.demand - c.entitled
				c.entitled = c.demand
			}
		}
		if met == 0 {
			for _, i := range siblings {
				if c := &list[i]; c.entitled < c.demand {
					c.entitled += part * c.weight
				}
			}
			return
		}
		rest -= met
	}
}

// claimants are the queues with what they have and want now. The jobs right in a queue count as one more below it, of weight 1, as in
// [quota.Book.Turns]: own[i] is where those of queue i stand.
func (e *engine) claimants() (list []claimant, own []int) {
	at := map[string]int{}
	own = make([]int, len(e.queues))
	var add func(name string, parent int)
	add = func(name string, parent int) {
		spec, _ := e.tree.Spec(name)
		share := e.tree.ShareAt(name, e.now)
		i := len(list)
		at[name] = i
		list = append(list, claimant{parent: parent, guaranteed: float64(share.Guaranteed), limit: limitOf(share.Limit), weight: float64(spec.Weight)})
		for _, child := range e.tree.Children(name) {
			add(child, i)
		}
	}
	for _, name := range e.tree.Children("") {
		add(name, -1)
	}
	for i := range e.queues {
		q := &e.queues[i]
		demand := float64(q.used + q.wanted)
		j, known := at[q.name]
		if known && len(e.tree.Children(q.name)) == 0 {
			list[j].demand, own[i] = demand, j
			continue
		}
		if !known {
			j = -1
		}
		own[i] = len(list)
		list = append(list, claimant{parent: j, limit: limitOf(quota.NoLimit), weight: 1, demand: demand})
	}
	return list, own
}

func limitOf(limit int64) float64 {
	if limit == quota.NoLimit {
		return 1e18
	}
	return float64(limit)
}
