package migsim

import (
	"context"
	"fmt"
	"strconv"

	configv1 "weft.sh/weft/pkg/apis/config/v1"
	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
)

// plugin is what the plugin GPUFit decides, by the same code: fit.Check, fit.Score and fit.Rank on cluster.Node with the mix learned
// from what arrives, fit.Assign for the GPU and the place on it. Unlike the framework it always looks at every node.
type plugin struct {
	study    *Study
	names    []string
	nodes    []*cluster.Node
	learner  *fit.Learner
	memo     *fit.Memo
	requests map[pod]gpu.Request // by pool, slot and portion
	at       map[int]int         // the node of each pod
	devices  map[gpu.ID]int
}

// newPlugin decides by the strategy of that name; empty is the default.
func newPlugin(s *Study, strategy string) *plugin {
	var args configv1.GPUFitArgs
	configv1.SetDefaults_GPUFitArgs(&args)
	if strategy == "" {
		strategy = *args.Strategy
	}
	p := &plugin{
		study: s, learner: fit.NewLearner(strategy, int(*args.MixWindow)), requests: map[pod]gpu.Request{}, at: map[int]int{},
		devices: map[gpu.ID]int{},
	}
	for n := range s.nodes {
		p.names = append(p.names, "node-"+strconv.Itoa(n))
		p.nodes = append(p.nodes, cluster.NewNode(p.names[n], cluster.NewInventory(cluster.SourceSlices, s.devices(n)), nil))
	}
	for g := range GPUsPerNode {
		p.devices[deviceID(g)] = g
	}
	p.memo = fit.NewMemo(p.learner.Strategy())
	return p
}

// deviceID is that of GPU g of every node: ids need to be unique in their node only.
func deviceID(g int) gpu.ID { return gpu.ID("GPU-" + strconv.Itoa(g)) }

const (
	// memoryMiB is that of all GPUs. It decides nothing: shares have their part of it.
	memoryMiB = 80 << 10
	// milliCPU is that of every node, of which pods take none.
	milliCPU = 128_000
)

// devices are the GPUs of a node, as a node agent would report them.
func (s *Study) devices(node int) []gpu.Device {
	var out []gpu.Device
	for g := range GPUsPerNode {
		d := gpu.Device{ID: deviceID(g), Index: g, Product: s.products[node], MemoryMiB: memoryMiB}
		if d.MIG = g < migPerNode; d.MIG {
			d.Instances = s.pools[s.poolOf[node]].table.Instances()
		}
		out = append(out, d)
	}
	return out
}

// observe counts a request. Where the plugin computes beside its work, this one stops and computes.
func (p *plugin) observe(r gpu.Request) {
	changed, due := p.learner.Observe(fit.ClassOf(r, 0))
	if due {
		stock := new(fit.Stock)
		for _, n := range p.nodes {
			stock.Add(n, milliCPU, milliCPU)
		}
		p.learner.Adopt(p.learner.Pose(stock).Solve(context.Background()))
	}
	if changed || due {
		p.memo = fit.NewMemo(p.learner.Strategy())
	}
}

// request is what the pod asks for. It accepts the models of its pool, as a pod with a node affinity.
func (p *plugin) request(of *pod) gpu.Request {
	key := pod{pool: of.pool, slot: of.slot, portion: of.portion}
	r, ok := p.requests[key]
	if !ok {
		ask := gpu.Ask{Kind: gpu.Shared, Count: 1, MilliGPU: p.study.mix[of.portion].MilliGPU}
		if of.pool >= 0 {
			from := p.study.pools[of.pool]
			ask = gpu.Ask{Kind: gpu.MIG, Count: 1, Profile: from.profiles[of.slot].Name}
			r.Products = from.products
		}
		r.Containers = []gpu.ContainerRequest{{Name: "main", Asks: []gpu.Ask{ask}}}
		p.requests[key] = r
	}
	return r
}

// arrive implements policy.
func (p *plugin) arrive(_ *fleet, n int, of *pod) (placement, bool, error) {
	r := p.request(of)
	p.observe(r)
	shape := p.memo.For(r)
	var fitting []int
	var names []string
	var scores []int64
	for i, node := range p.nodes {
		if shape.Check(node) == fit.Fits {
			fitting = append(fitting, i)
			names = append(names, p.names[i])
			scores = append(scores, shape.Score(node, fit.CPU{FreeMilli: milliCPU}))
		}
	}
	if len(fitting) == 0 {
		return placement{}, false, nil
	}
	best := 0
	ranks := fit.Rank(names, scores)
	for i := range ranks {
		if ranks[i] > ranks[best] {
			best = i
		}
	}
	at := fitting[best]
	a, err := fit.Assign(p.nodes[at], r, fit.CPU{FreeMilli: milliCPU}, shape.Strategy())
	if err != nil {
		return placement{}, false, fmt.Errorf("node %s: %w", p.names[at], err)
	}
	uid := strconv.Itoa(n)
	p.nodes[at] = p.nodes[at].With(cluster.NewPod(uid, uid, a))
	p.at[n] = at
	use := a.Uses()[0]
	out := placement{gpu: at*GPUsPerNode + p.devices[use.GPU]}
	if len(use.Instances) > 0 {
		out.instance = use.Instances[0]
	}
	return out, true, nil
}

// leave implements policy.
func (p *plugin) leave(n int) {
	at := p.at[n]
	delete(p.at, n)
	p.nodes[at] = p.nodes[at].Without(strconv.Itoa(n))
}
