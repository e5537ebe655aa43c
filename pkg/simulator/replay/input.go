package replay

import (
	"iter"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/quota"
)

// Input is what is replayed. Times are Unix seconds of virtual time, durations seconds.
type Input struct {
	// Name says in results what was replayed.
	Name string
	// Start is when it begins, not after the first job.
	Start int64
	// From and To bound what is measured: the jobs that arrive in [From, To), and the state of the cluster meanwhile. To is 0 for up to the
	// end of the last job.
	From, To int64
	Nodes    []Node
	// Levels are the topology levels, from the narrowest to the widest.
	Levels []string
	Queues []quota.Spec
	// Jobs in the order of their time. It is read as they arrive, once for each run, and a job that ended is kept no longer.
	Jobs iter.Seq2[Job, error]
	// Outages are sorted by time.
	Outages []Outage
	// Drop says that a job that finds no place when it arrives leaves for good; otherwise it waits.
	Drop bool
}

// Node is a node when all its GPUs are idle.
type Node struct {
	Name      string
	Inventory cluster.Inventory
	// MilliCPU and MemoryMiB are what pods can have; 0 where that is not looked at.
	MilliCPU, MemoryMiB int64
	// Domains are the values of the levels, empty for none.
	Domains []string
}

// Job is what starts together: a pod, or a gang of pods that are alike.
type Job struct {
	Name     string
	Queue    string
	Priority int32
	// At is when it arrives.
	At int64
	// Runtime is how long it runs, and Stated how long it says that it will; 0 when it says nothing.
	Runtime, Stated int64
	// Members is the number of pods and Min how many of them must start together, 1 to Members.
	Members, Min int
	// Request is what each member asks for, and MilliGPU what that counts for its queue.
	Request             gpu.Request
	MilliGPU            int64
	MilliCPU, MemoryMiB int64
	gang.Topology
	// Where is the file and the line or the path that the job is from.
	Where string
}

// Outage is a node that is away for some time.
type Outage struct {
	Node string
	// At is when it fails, and Until when it is back; 0 for never.
	At, Until int64
}
