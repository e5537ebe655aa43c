package replay

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/quota"
)

// sound says what is wrong with the state, nil for nothing. It counts everything anew.
func (e *engine) sound() error {
	type load struct{ milliCPU, memory int64 }
	loads, onNodes := make([]load, len(e.nodes)), map[*job]int{}
	for i := range e.nodes {
		n := &e.nodes[i]
		if c := n.now.Conflicts(); len(c) > 0 {
			return fmt.Errorf("node %s: %s", n.Name, c[0])
		}
		if n.down && len(n.now.Pods) > 0 {
			return fmt.Errorf("node %s is away and has pods", n.Name)
		}
		for _, p := range n.now.Pods {
			j := e.owner[p.UID]
			if j == nil {
				return fmt.Errorf("pod %s on node %s is nobody's", p.UID, n.Name)
			}
			onNodes[j]++
			loads[i].milliCPU += j.MilliCPU
			loads[i].memory += j.MemoryMiB
		}
		if n.MilliCPU > 0 && n.milliCPU != n.MilliCPU-loads[i].milliCPU || n.MilliCPU > 0 && n.milliCPU < 0 {
			return fmt.Errorf("node %s has %d of %d milli-CPU left, pods have %d", n.Name, n.milliCPU, n.MilliCPU, loads[i].milliCPU)
		}
		if n.MemoryMiB > 0 && (n.memory != n.MemoryMiB-loads[i].memory || n.memory < 0) {
			return fmt.Errorf("node %s has %d of %d MiB left, pods have %d", n.Name, n.memory, n.MemoryMiB, loads[i].memory)
		}
	}
	used, partial := map[string]int64{}, int64(0)
	for j, pods := range onNodes {
		if pods != len(j.pods) {
			return fmt.Errorf("job %s has %d pods on nodes and says %d", j.Name, pods, len(j.pods))
		}
		if pods < j.Min {
			partial += int64(pods) * j.MilliGPU
			if !e.policy.podwise {
				return fmt.Errorf("job %s has %d pods of the %d it needs", j.Name, pods, j.Min)
			}
		}
		for _, up := range append(e.tree.Path(j.Queue), "") {
			used[up] += int64(pods) * j.MilliGPU
		}
	}
	if partial != e.incomplete {
		return fmt.Errorf("incomplete gangs hold %d milli-GPU, counted %d", partial, e.incomplete)
	}
	for _, j := range e.running {
		if len(j.pods) < j.Min || onNodes[j] == 0 {
			return fmt.Errorf("job %s runs with %d pods, needs %d", j.Name, len(j.pods), j.Min)
		}
	}
	sum := int64(0)
	for i := range e.queues {
		sum += e.queues[i].used
		s, ok := e.book.Standing(e.queues[i].name)
		if !ok {
			continue
		}
		if s.Running != used[e.queues[i].name] || s.Running > s.Limit {
			return fmt.Errorf("queue %s: the book has %d milli-GPU, nodes %d, the limit is %d", e.queues[i].name, s.Running, used[e.queues[i].name], s.Limit)
		}
		if spec, _ := e.tree.Spec(e.queues[i].name); spec.Budget != nil && spec.Budget.Enforcement == quota.Hold && s.Used > s.BudgetLimit &&
			!e.policy.podwise { // whose pods that wait for the rest of their gang run for longer than they said
			return fmt.Errorf("queue %s used %d of %d milli-GPU-seconds", e.queues[i].name, s.Used, s.BudgetLimit)
		}
	}
	if sum != used[""] {
		return fmt.Errorf("queues hold %d milli-GPU, nodes %d", sum, used[""])
	}
	return nil
}

// randomInput is a small cluster with all there is: racks, queues with limits and budgets, gangs, priorities, failures.
func randomInput(seed uint64) *Input {
	r := rand.New(rand.NewPCG(seed, 1))
	in := &Input{Name: "random", Start: 1_767_571_200, From: 1_767_571_200, Levels: []string{"rack"}} // 2026-01-05, a Monday
	for i := range 2 + r.IntN(8) {
		in.Nodes = append(in.Nodes, Node{
			Name: fmt.Sprintf("n%d", i), Inventory: inventoryOf("H", 1+r.IntN(8), 81920), MilliCPU: 64000, MemoryMiB: 512 << 10,
			Domains: []string{fmt.Sprintf("r%d", i%3)},
		})
	}
	for i, q := range []quota.Spec{
		{Name: "org", Share: quota.Share{Guaranteed: 12000, Limit: 30000}},
		{Name: "a", Parent: "org", Share: quota.Share{Guaranteed: 6000, Limit: quota.NoLimit}},
		{Name: "b", Parent: "org", Share: quota.Share{Guaranteed: 4000, Limit: 20000}},
		{Name: "c", Share: quota.Share{Guaranteed: 4000, Limit: quota.NoLimit}},
		{Name: "d", Share: quota.Share{Limit: 10000}, Budget: &quota.Budget{
			MilliGPUSeconds: 20 * 3600 * 1000, Period: quota.PeriodDay, Enforcement: quota.Hold, RolloverPercent: 50,
		}},
	} {
		q.Created, q.Weight = int64(i), 1+int64(i%2)
		in.Queues = append(in.Queues, q)
	}
	var jobs []Job
	at := in.Start
	for i := range 60 + r.IntN(120) {
		at += r.Int64N(1200)
		runtime := 60 + r.Int64N(4*3600)
		j := Job{
			Name: fmt.Sprintf("job-%d", i), Queue: []string{"a", "b", "c", "d", "org", ""}[r.IntN(6)], Priority: int32(r.IntN(5) / 4), At: at,
			Runtime: runtime, Stated: runtime, Members: 1, MilliCPU: r.Int64N(8000), MemoryMiB: r.Int64N(32 << 10), Where: "random",
		}
		if r.IntN(3) == 0 {
			j.Members = 2 + r.IntN(4)
		}
		j.Min = 1 + r.IntN(j.Members)
		switch r.IntN(8) {
		case 0:
			j.Stated = 0
		case 1:
			j.Stated = 1 + runtime/2
		case 2:
			j.Required = "rack"
		case 3:
			j.Preferred = "rack"
		}
		if j.Queue == "d" { // who runs longer than it said passes the budget
			j.Stated = runtime
		}
		count := 1 + r.IntN(4)
		j.Request, j.MilliGPU = wholeGPUs(count), int64(count)*gpu.WholeMilliGPU
		if r.IntN(4) == 0 {
			j.Request.Containers[0].Asks[0] = gpu.Ask{Kind: gpu.Shared, Count: 1, MilliGPU: 300}
			j.MilliGPU = 300
		}
		jobs = append(jobs, j)
	}
	for i := range in.Nodes {
		if r.IntN(2) == 0 {
			at := in.Start + r.Int64N(24*3600)
			in.Outages = append(in.Outages, Outage{Node: in.Nodes[i].Name, At: at, Until: at + 1 + r.Int64N(6*3600)})
		}
	}
	in.Jobs = func(yield func(Job, error) bool) {
		for _, j := range jobs {
			if !yield(j, nil) {
				return
			}
		}
	}
	return in
}

// TestRandom has every policy go through random clusters: after each second no GPU is given out twice, no queue is over its limit or its
// budget, no gang is there in part, and every count is what counting anew gives. In the end whoever could run has.
func TestRandom(t *testing.T) {
	seeds := uint64(8)
	if testing.Short() {
		seeds = 3
	}
	for _, policy := range PolicyNames() {
		t.Run(policy, func(t *testing.T) {
			evictions := 0
			for seed := range seeds {
				_, r := run(t, randomInput(seed), policy)
				if policy != "podwise" && (r.Unfinished > 0 || r.IncompleteGPUHours > 0) {
					t.Errorf("seed %d: %d jobs never ended, incomplete gangs held %v GPU-hours", seed, r.Unfinished, r.IncompleteGPUHours)
				}
				evictions += r.Evictions
			}
			if (policy == "weft") != (evictions > 0) {
				t.Errorf("%d evictions", evictions)
			}
		})
	}
}

// TestNothingIsKept replays many jobs, and finds nothing of them that grows with their number.
func TestNothingIsKept(t *testing.T) {
	const jobs = 20_000
	in := &Input{Start: 1_767_571_200, From: 1_767_571_200}
	for i := range 4 {
		in.Nodes = append(in.Nodes, Node{Name: fmt.Sprintf("n%d", i), Inventory: inventoryOf("H", 8, 81920)})
	}
	in.Queues = []quota.Spec{{Name: "q", Weight: 1, Share: quota.Share{Guaranteed: 8000, Limit: quota.NoLimit}, Budget: &quota.Budget{
		MilliGPUSeconds: 1 << 40, Period: quota.PeriodDay, Enforcement: quota.Hold,
	}}, {Name: "r", Weight: 1, Share: quota.Share{Limit: quota.NoLimit}}}
	request := wholeGPUs(4)
	in.Jobs = func(yield func(Job, error) bool) {
		for i := range jobs {
			j := Job{
				Name: "job", Queue: []string{"q", "r"}[i%2], At: in.Start + int64(i)*40, Runtime: 100 + int64(i%97), Members: 1 + i%2, Min: 1 + i%2,
				Request: request, MilliGPU: 4000,
			}
			if j.Stated = j.Runtime; !yield(j, nil) {
				return
			}
		}
	}
	e, err := newEngine(in, policies[0].Policy, fit.BestFitName)
	if err != nil {
		t.Fatal(err)
	}
	most := 0
	e.after = func() error {
		most = max(most, len(e.agenda.of)+len(e.wakes)+len(e.running)+len(e.waiting)+len(e.owner)+len(e.holds)+len(e.rests)+len(e.series.points)/100)
		return nil
	}
	if err := e.simulate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e.finished != jobs || most > 500 {
		t.Errorf("%d of %d jobs ended; as many as %d things were kept", e.finished, jobs, most)
	}
}
