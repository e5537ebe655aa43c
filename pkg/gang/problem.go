package gang

import (
	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
)

// Problem is a gang and the nodes it can be placed on, at one moment. Read only to the functions of this package.
type Problem struct {
	// Gang is for messages.
	Gang Key
	// Min is how many members must have a place, those that have one already included. At least 0; with 0 the plan is for
	// surplus members: as many as have a place, and a rejection only when none has.
	Min int
	Topology
	// Levels are the keys of the levels, from the narrowest to the widest; see [Node.Domains]. Domains of a level should lie within one
	// domain of the next: parts of a domain that does not count as several where the best spread is looked for.
	Levels []string
	// Resources are the names of the resources besides GPUs that members ask for, such as cpu; see [Shape.Ask].
	Resources []string
	Shapes    []Shape
	// Members are all members that are to run together, in rank order: those that exchange most stand side by side. They are
	// placed in this order along the topology.
	Members []Member
	// Nodes are the nodes that at least one shape may use, and every node of a member that has a place. Names are unique; the order
	// makes no difference to the plan, and by name is fastest.
	Nodes []Node
	// Strategy rates what is equal otherwise; nil rates everything equal.
	Strategy fit.Strategy
	// Effort bounds the work of one call, in partial placements that are compared, of a few nanoseconds each; 0 or less is
	// [DefaultEffort]. A bound in time would make the answer depend on the machine.
	Effort int
}

// Shape is what members that are alike ask for.
type Shape struct {
	// Name is for messages, such as the name of the first member of the shape.
	Name string
	// Request is what it asks of GPUs; it may be empty.
	Request gpu.Request
	// MilliCPU is the CPU that it asks for in thousandths of a core, for the strategy; it is in Ask too where it counts.
	MilliCPU int64
	// Ask is how much it asks of each of [Problem.Resources], 0 or more; what it asks nothing of does not matter, however overbooked.
	// A pod's own slot on a node is one of them.
	Ask []int64
}

// Member is one pod of the gang.
type Member struct {
	UID string
	// Name is namespace/name.
	Name string
	// Shape is an index into [Problem.Shapes].
	Shape int
	// Node is where the member is, bound or about to be; empty for one that is to be placed. A member that has a place
	// holds its GPUs in the nodes' state already.
	Node string
}

// Node is a node as the planner sees it.
type Node struct {
	Name string
	// GPUs is the state of its GPUs; nil where it has none.
	GPUs *cluster.Node
	// Domains are the values of [Problem.Levels]; empty where the node is in no domain of the level.
	Domains []string
	// MilliCPU is the CPU left, for the strategy.
	MilliCPU int64
	// Free is what is left of each of [Problem.Resources]; negative when the node is overbooked.
	Free []int64
	// Limit is how many more members of each shape everything else (affinity, taints, ports, volumes) lets on the node, whatever is
	// free: 0 for none, [NoLimit] where nothing limits them.
	Limit []int
}

// NoLimit is a [Node.Limit] that limits nothing.
const NoLimit = int(^uint(0) >> 1)

// Result is a plan for a gang.
type Result struct {
	// Placements are in the order of the members, one for each member that gets a place now.
	Placements []Placement
	// Surplus are the indices of the members that get none, which the gang can do without.
	Surplus []int
	// Domains is, for each level, how many domains the members are in, those with a place already included. Nodes without the
	// level's label count as one where they share a narrower domain, and as one each where they do not.
	Domains []int
	// Level and Domain are the domain that holds all members at the narrowest level at which one does, and that level. Both are
	// empty when none does.
	Level, Domain string
	// Truncated says that not everything was looked at, for the effort ran out or there are too many combinations of several
	// shapes: there may be a plan in fewer domains.
	Truncated bool
}

// Placement is a member's place.
type Placement struct {
	// Member is an index into [Problem.Members].
	Member int
	// Node is an index into [Problem.Nodes].
	Node       int
	Assignment gpu.Assignment
}
