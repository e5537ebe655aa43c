package replay

import (
	"cmp"
	"slices"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
)

// state is the nodes and who is on them.
type state struct {
	nodes []node // by name
	// up are the nodes that are there, as plans see them, by name; position is where in it a node is.
	up       []gang.Node
	position map[string]int
	owner    map[string]*job // by the pod's UID
	// spares counts the nodes that are up by their idle GPUs.
	spares []int
	// empty are all nodes as if nobody ran, and fits says which shapes of jobs have a place there.
	empty []gang.Node
	fits  map[string]bool
	// capacity and idle are milli-GPU by class, of the nodes that are up; total is all capacity, whatever is up.
	capacity, idle map[string]int64
	total          int64
	// incomplete is what gangs hold now that have fewer members in place than they need, in milli-GPU.
	incomplete int64
}

// node is a node with what is on it.
type node struct {
	Node
	now              *cluster.Node
	milliCPU, memory int64 // left
	down             bool
	class            string
	// spare is the GPUs that can be given whole, capacity and idle are milli-GPU; the first and the last are 0 when it is down.
	spare          int
	capacity, idle int64
}

// place is where a member is to go.
type place struct {
	member, node int
	assignment   gpu.Assignment
}

// plenty is what a node has left of what nobody looks at.
const plenty = int64(1) << 50

// resources are what members ask for besides GPUs.
var resources = []string{"cpu", "memory"}

// unlimited is the limit of a node for the one shape of a job.
var unlimited = []int{gang.NoLimit}

func (s *state) open(in *Input) {
	*s = state{owner: map[string]*job{}, capacity: map[string]int64{}, idle: map[string]int64{}}
	for _, n := range in.Nodes {
		v := node{Node: n, now: cluster.NewNode(n.Name, n.Inventory, nil), milliCPU: n.MilliCPU, memory: n.MemoryMiB}
		if n.MilliCPU == 0 {
			v.milliCPU = plenty
		}
		if n.MemoryMiB == 0 {
			v.memory = plenty
		}
		if len(n.Inventory.Devices) > 0 {
			v.class = n.Inventory.Devices[0].Product
		}
		for i := range v.now.GPUs {
			if !v.now.GPUs[i].Unhealthy {
				v.capacity += gpu.WholeMilliGPU
			}
		}
		s.total += v.capacity
		s.nodes = append(s.nodes, v)
	}
	slices.SortFunc(s.nodes, func(a, b node) int { return cmp.Compare(a.Name, b.Name) })
	for i := range s.nodes {
		s.look(i, 1)
	}
	s.rebuild()
}

// rebuild makes the list of nodes that are up anew.
func (s *state) rebuild() {
	s.up, s.position = nil, map[string]int{}
	for i := range s.nodes {
		if n := &s.nodes[i]; !n.down {
			s.position[n.Name] = len(s.up)
			s.up = append(s.up, gang.Node{
				Name: n.Name, GPUs: n.now, Domains: n.Domains, MilliCPU: n.milliCPU, Free: []int64{n.milliCPU, n.memory}, Limit: unlimited,
			})
		}
	}
}

// look counts what is idle on the node, or takes it out of the count; nothing of a node that is down.
func (s *state) look(i, sign int) {
	n := &s.nodes[i]
	if sign > 0 {
		n.spare, n.idle = 0, 0
		if !n.down {
			n.spare = max(0, n.now.Spare().GPUs)
			for g := range n.now.GPUs {
				if !n.now.GPUs[g].Unhealthy {
					n.idle += max(0, gpu.WholeMilliGPU-n.now.AssignedMilliGPU(g))
				}
			}
			s.capacity[n.class] += n.capacity
		}
	} else if !n.down {
		s.capacity[n.class] -= n.capacity
	}
	if n.spare >= len(s.spares) {
		s.spares = append(s.spares, make([]int, n.spare+1-len(s.spares))...)
	}
	s.spares[n.spare] += sign
	s.idle[n.class] += int64(sign) * n.idle
}

// put replaces what is on the node.
func (s *state) put(i int, now *cluster.Node, milliCPU, memory int64) {
	s.look(i, -1)
	n := &s.nodes[i]
	n.now, n.milliCPU, n.memory = now, n.milliCPU+milliCPU, n.memory+memory
	s.look(i, 1)
	if at, ok := s.position[n.Name]; ok {
		u := &s.up[at]
		u.GPUs, u.MilliCPU = now, n.milliCPU
		u.Free = []int64{n.milliCPU, n.memory}
	}
}

func (s *state) setDown(i int, down bool) {
	s.look(i, -1)
	s.nodes[i].down = down
	s.look(i, 1)
	s.rebuild()
}

// holding is what the job holds of gangs that are not complete.
func (j *job) holding() int64 {
	if len(j.pods) >= j.Min {
		return 0
	}
	return int64(len(j.pods)) * j.MilliGPU
}

// bind puts a member on its node.
func (s *state) bind(j *job, p place) {
	uid := j.uid(p.member)
	s.incomplete -= j.holding()
	now := s.nodes[p.node].now
	if !p.assignment.Empty() { // a node is said to be in use by those that have GPUs
		now = now.With(cluster.NewPod(uid, j.Name, p.assignment))
	}
	s.put(p.node, now, -j.MilliCPU, -j.MemoryMiB)
	s.owner[uid] = j
	j.pods = append(j.pods, pod{uid, p.node, p.member})
	s.incomplete += j.holding()
}

// unbind takes the job's pod i from its node.
func (s *state) unbind(j *job, i int) {
	p := j.pods[i]
	s.incomplete -= j.holding()
	s.put(p.node, s.nodes[p.node].now.Without(p.uid), j.MilliCPU, j.MemoryMiB)
	delete(s.owner, p.uid)
	j.pods = slices.Delete(j.pods, i, i+1)
	s.incomplete += j.holding()
}

// idleNow is all that is idle.
func (s *state) idleNow() (sum int64) {
	for _, n := range s.idle {
		sum += n
	}
	return sum
}

// capacityNow is what the nodes that are up have.
func (s *state) capacityNow() (sum int64) {
	for _, n := range s.capacity {
		sum += n
	}
	return sum
}
