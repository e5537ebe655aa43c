//go:build linux

package integration

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"weft.sh/weft/pkg/podspec"
)

const (
	chaosRounds = 200
	// chaosBatch rounds are followed by a gang that needs every GPU; chaosLanes of them run at a time.
	chaosBatch = 10
	chaosLanes = 4
	chaosNodes = 16
	// chaosRetries is argument bindRetries, which is not set.
	chaosRetries = 3
	// chaosPatience is for what ends by itself within seconds; only a gang that is stuck takes so long.
	chaosPatience = 2 * time.Minute
	forGood       = 1 << 30
)

// chaosFaults are what happens in a round, and in how many of them.
var chaosFaults = []struct {
	name   string
	rounds int
}{
	{"nothing", 32},
	{"bindings refused once", 37},
	{"bindings refused until given up", 16},
	{"bindings refused for good", 16},
	{"answers to bindings lost", 16},
	{"scheduler killed", 25},
	{"API server killed", 6},
	{"member deleted", 26},
	{"PodGroup deleted", 26},
}

// TestGangsSurviveFaults starts one to three gangs in each round and has something fail in the middle: at a binding that is
// drawn by lot. Afterwards each gang either has its minimum or holds nothing: what was bound in part is completed by the
// scheduler, or evicted by the controller and gone. A watch checks all the time that no GPU is given twice, and now and then a
// gang of the size of the cluster that none is lost.
func TestGangsSurviveFaults(t *testing.T) {
	x := startGangChaos(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var faults []string
	for _, f := range chaosFaults {
		faults = append(faults, slices.Repeat([]string{f.name}, f.rounds)...)
	}
	r.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	if len(faults) != chaosRounds {
		t.Fatalf("there are faults for %d rounds, want %d", len(faults), chaosRounds)
	}

	begin := time.Now()
	took := map[string]time.Duration{}
	for first := 0; first < chaosRounds && !t.Failed(); first += chaosBatch {
		var next atomic.Int64
		next.Store(int64(first))
		var lanes sync.WaitGroup
		for range chaosLanes {
			lanes.Go(func() {
				for i := int(next.Add(1) - 1); i < first+chaosBatch && !t.Failed(); i = int(next.Add(1) - 1) {
					at := time.Now()
					x.round(i, faults[i], rand.New(rand.NewPCG(seed, uint64(i)+1)))
					x.mu.Lock()
					took[faults[i]] += time.Since(at)
					x.mu.Unlock()
				}
			})
		}
		lanes.Wait()
		if !t.Failed() {
			x.probe(first)
		}
	}
	x.stop()
	for _, f := range chaosFaults {
		each := took[f.name] / time.Duration(f.rounds)
		t.Logf("%3d rounds: %-32s %v on average", f.rounds, f.name, each.Round(time.Millisecond))
	}
	t.Logf("%d rounds in %v: %d pods bound; %d bindings refused, %d answers lost; %d gangs left below their minimum",
		chaosRounds, time.Since(begin).Round(time.Second), x.audit.bound, x.refusals, x.losses, x.broken)
	slices.Sort(x.partial)
	if n := len(x.partial); n > 0 {
		t.Logf("%d times a gang was bound in part: for %v in the median, at most %v; the grace is 1s or 2s",
			n, x.partial[n/2], x.partial[n-1])
	}
	if x.audit.bound < 4*chaosRounds || x.refusals == 0 || x.losses == 0 || x.broken == 0 {
		t.Error("the test did not exercise what it is for")
	}
}

// gangChaos is a cluster in which things fail, and what the test knows of it.
type gangChaos struct {
	*cluster
	groups dynamic.ResourceInterface
	audit  *audit
	direct *http.Client
	stop   func()

	// processes is held while the scheduler or the API server is not there.
	processes sync.Mutex
	apiServer func() // kills it and starts another

	mu      sync.Mutex
	pods    map[string]*corev1.Pod
	gangs   map[string]*chaosGang
	changed chan struct{} // closed when pods change or a binding arrives
	refuse  map[string]int
	lose    map[string]bool
	arrived map[string]int // bindings by round

	refusals, losses, broken int
	partial                  []time.Duration
}

// chaosGang is a gang of a round. gangChaos.mu guards what changes.
type chaosGang struct {
	name      string
	size, min int
	gpus      int64
	notes     map[string]string
	seen      map[string]bool
	orphaned  bool      // its PodGroup was deleted
	over      bool      // the round has nothing more to ask of it
	since     time.Time // since when it is bound in part
}

// roundOf is the round to which the pod or gang belongs: names begin with it.
func roundOf(name string) string { return name[:4] }

// poke wakes who waits. The lock is held.
func (x *gangChaos) poke() {
	close(x.changed)
	x.changed = make(chan struct{})
}

// wait waits until the condition, which is called with the lock held, finds nothing missing.
func (x *gangChaos) wait(ctx context.Context, condition func() string) (missing string) {
	for {
		x.mu.Lock()
		missing, changed := condition(), x.changed
		x.mu.Unlock()
		if missing == "" {
			return ""
		}
		select {
		case <-ctx.Done():
			return missing
		case <-changed:
		}
	}
}

// expect is wait, and an error when it takes too long.
func (x *gangChaos) expect(what string, condition func() string) bool {
	ctx, cancel := context.WithTimeout(x.t.Context(), chaosPatience)
	defer cancel()
	if missing := x.wait(ctx, condition); missing != "" {
		x.t.Errorf("%s, after %v: %s", what, chaosPatience, missing)
		return false
	}
	return true
}

// follow keeps pods up to date, over the ends of the API server too.
func (x *gangChaos) follow(ctx context.Context) {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for ctx.Err() == nil {
		x.followOne(ctx)
		select {
		case <-ctx.Done():
		case <-again.C:
		}
	}
}

func (x *gangChaos) followOne(ctx context.Context) {
	api := x.client.CoreV1().Pods(metav1.NamespaceDefault)
	list, err := api.List(ctx, metav1.ListOptions{})
	if err != nil {
		return
	}
	there := map[string]bool{}
	for _, p := range list.Items {
		there[p.Name] = true
	}
	// What is gone first: its GPUs may be another's by now.
	x.mu.Lock()
	gone := slices.DeleteFunc(slices.Collect(maps.Values(x.pods)), func(p *corev1.Pod) bool { return there[p.Name] })
	x.mu.Unlock()
	for _, p := range gone {
		x.see(watch.Deleted, p)
	}
	for i := range list.Items {
		x.see(watch.Modified, &list.Items[i])
	}
	w, err := api.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if p, ok := e.Object.(*corev1.Pod); ok {
			x.see(e.Type, p)
		}
	}
}

// see takes one change of a pod into account.
func (x *gangChaos) see(e watch.EventType, p *corev1.Pod) {
	x.audit.see(e, p)
	x.mu.Lock()
	defer x.mu.Unlock()
	if e == watch.Deleted {
		delete(x.pods, p.Name)
	} else {
		x.pods[p.Name] = p
	}
	x.poke()
	g := x.gangs[p.Labels[podspec.LabelPodGroup]]
	if g == nil {
		return
	}
	g.seen[p.Name] = true
	bound, _, _ := x.count(g)
	switch inPart := bound > 0 && bound < g.min && !g.over && !g.orphaned; {
	case inPart && g.since.IsZero():
		g.since = time.Now()
	case !inPart && !g.since.IsZero():
		x.partial = append(x.partial, time.Since(g.since).Round(time.Millisecond))
		g.since = time.Time{}
	}
}

// count is how many pods of the gang are bound, wait, and leave. The lock is held.
func (x *gangChaos) count(g *chaosGang) (bound, waiting, leaving int) {
	for name := range g.seen {
		switch p := x.pods[name]; {
		case p == nil:
		case p.DeletionTimestamp != nil:
			leaving++
		case p.Spec.NodeName != "":
			bound++
		default:
			waiting++
		}
	}
	return bound, waiting, leaving
}

// settled is what is missing until nothing more will happen to the gang by itself. The lock is held.
func (x *gangChaos) settled(g *chaosGang) string {
	bound, waiting, leaving := x.count(g)
	switch {
	case len(g.seen) == g.size && leaving == 0 && (g.orphaned || bound >= g.min || bound == 0 && waiting < g.min):
		return ""
	}
	var reasons []string
	for name := range g.seen {
		if p := x.pods[name]; p != nil && p.Spec.NodeName == "" {
			reasons = append(reasons, name+": "+condition(p))
		}
	}
	slices.Sort(reasons)
	return fmt.Sprintf("of gang %s with %d members of %d GPUs, %d of them its minimum, %d are bound, %d wait and %d leave: %s",
		g.name, g.size, g.gpus, g.min, bound, waiting, leaving, strings.Join(reasons, "; "))
}

// sweep deletes pods of gangs that lost their PodGroup when they are bound: nobody else would, and others want the GPUs.
func (x *gangChaos) sweep(ctx context.Context) {
	for ctx.Err() == nil {
		var names []string
		x.wait(ctx, func() string {
			for _, g := range x.gangs {
				for name := range g.seen {
					if p := x.pods[name]; p != nil && g.orphaned && g.over && p.Spec.NodeName != "" {
						names = append(names, name)
					}
				}
			}
			if len(names) == 0 {
				return "no such pod"
			}
			return ""
		})
		if ctx.Err() != nil {
			return
		}
		x.remove(names...)
		x.wait(ctx, func() string {
			for _, name := range names {
				if x.pods[name] != nil {
					return name + " is not gone"
				}
			}
			return ""
		})
	}
}

// round starts gangs, has the fault happen, and waits for what becomes of them.
func (x *gangChaos) round(i int, fault string, r *rand.Rand) {
	var gangs []*chaosGang
	at := forGood
	for n := range 1 + r.IntN(3) {
		g := &chaosGang{
			name: fmt.Sprintf("r%03d%c", i, 'a'+n), size: 2 + r.IntN(11), gpus: 1 + r.Int64N(1+r.Int64N(8)), seen: map[string]bool{},
		}
		g.min = g.size
		if r.IntN(3) == 0 {
			g.min = 1 + r.IntN(g.size)
		}
		g.notes = map[string]string{podspec.AnnotationPartialGrace: fmt.Sprintf("%ds", 1+r.IntN(2))}
		if fault != "bindings refused for good" && r.IntN(4) == 0 { // what is refused could be as many as the minimum
			g.notes[podspec.AnnotationOnPartialStart] = "leave"
		}
		gangs = append(gangs, g)
		at = min(at, r.IntN(g.min+1)) // so many bindings there are, whichever gang starts first
	}
	x.mu.Lock()
	for _, g := range gangs {
		x.gangs[g.name] = g
	}
	x.mu.Unlock()
	x.prepare(fault, gangs, r)
	create := x.creation(gangs, r)
	victim := gangs[r.IntN(len(gangs))]
	member := worker(victim.name, r.IntN(victim.size), 1).Name

	var created sync.WaitGroup
	created.Go(func() {
		for _, f := range create {
			f()
		}
	})
	if strings.HasSuffix(fault, "deleted") {
		created.Wait()
	}
	if !x.expect(fmt.Sprintf("round %d (%s): for binding %d", i, fault, at), func() string {
		if x.arrived[roundOf(victim.name)] >= at {
			return ""
		}
		return x.settled(gangs[0])
	}) {
		created.Wait()
		return
	}
	switch fault {
	case "scheduler killed":
		x.processes.Lock()
		x.scheduler.Kill()
		x.startScheduler()
		x.processes.Unlock()
	case "API server killed":
		x.processes.Lock()
		x.apiServer()
		x.processes.Unlock()
	case "member deleted":
		x.remove(member)
		x.mu.Lock()
		victim.seen[member] = true
		x.mu.Unlock()
		x.expect("deleting "+member, func() string {
			if x.pods[member] != nil {
				return "it is there"
			}
			return ""
		})
	case "PodGroup deleted":
		x.removeGroup(victim.name)
		x.mu.Lock()
		victim.orphaned = true
		x.mu.Unlock()
	}
	created.Wait()
	var wg sync.WaitGroup
	for _, g := range gangs {
		wg.Go(func() {
			if x.expect(fmt.Sprintf("round %d (%s)", i, fault), func() string { return x.settled(g) }) {
				x.finish(g)
			}
		})
	}
	wg.Wait()
}

// prepare says which bindings fail: those of every k-th member.
func (x *gangChaos) prepare(fault string, gangs []*chaosGang, r *rand.Rand) {
	x.mu.Lock()
	defer x.mu.Unlock()
	times := map[string]int{
		"bindings refused once": 1, "bindings refused until given up": chaosRetries + 1, "bindings refused for good": forGood,
	}[fault]
	if strings.HasSuffix(fault, "deleted") {
		times = r.IntN(3) // also while members are tried again
	}
	k := 2 + r.IntN(3)
	for _, g := range gangs {
		for j := k - 1; j < g.size; j += k {
			name := worker(g.name, j, g.gpus).Name
			x.refuse[name] = times
			x.lose[name] = fault == "answers to bindings lost"
		}
	}
}

// creation is what creates the gangs, in random order.
func (x *gangChaos) creation(gangs []*chaosGang, r *rand.Rand) (create []func()) {
	for _, g := range gangs {
		create = append(create, func() { x.addGroup(g) })
		for j := range g.size {
			create = append(create, func() { x.add(worker(g.name, j, g.gpus)) })
		}
	}
	r.Shuffle(len(create), func(i, j int) { create[i], create[j] = create[j], create[i] })
	return create
}

// finish removes a gang that has what it wants. One that never will may stay, with what is left of it.
func (x *gangChaos) finish(g *chaosGang) {
	x.mu.Lock()
	bound, _, _ := x.count(g)
	whole := bound >= g.min && !g.orphaned
	g.over = whole || g.orphaned
	if !whole {
		x.broken++
	}
	x.poke()
	x.mu.Unlock()
	// Pods of gangs that fell below their minimum stay until a gang of the size of the cluster was bound: they hold nothing.
	if whole {
		x.clear(g)
	}
}

// clear removes all of a gang.
func (x *gangChaos) clear(g *chaosGang) {
	x.mu.Lock()
	g.over = true
	names := slices.Sorted(maps.Keys(g.seen))
	x.mu.Unlock()
	x.remove(names...)
	x.removeGroup(g.name)
}

// probe finds out whether every GPU is there to be given again, while pods that cannot be bound wait where there are any.
func (x *gangChaos) probe(i int) {
	g := &chaosGang{name: fmt.Sprintf("p%03da", i), size: chaosNodes, min: chaosNodes, gpus: 8, seen: map[string]bool{}}
	x.mu.Lock()
	x.gangs[g.name] = g
	x.mu.Unlock()
	x.addGroup(g)
	for j := range g.size {
		x.add(worker(g.name, j, g.gpus))
	}
	if !x.expect(fmt.Sprintf("a gang of the size of the cluster after round %d", i+chaosBatch-1), func() string { return x.settled(g) }) {
		x.mu.Lock()
		for name, p := range x.pods {
			x.t.Logf("%s is on %q: %s", name, p.Spec.NodeName, condition(p))
		}
		x.mu.Unlock()
		for line := range x.metrics() {
			if strings.HasPrefix(line, "weft_gpu_assigned_milligpu{") && !strings.HasSuffix(line, " 0") {
				x.t.Log(line)
			}
		}
		return
	}
	x.mu.Lock()
	all := slices.Collect(maps.Values(x.gangs))
	clear(x.gangs)
	x.mu.Unlock()
	for _, g := range all {
		x.clear(g)
	}
	x.expect("the end of the pods", func() string {
		if n := len(x.pods); n > 0 {
			return fmt.Sprintf("%d pods are there", n)
		}
		return ""
	})
	x.held(0)
}
