package quota

// Contest is who wants what is idle.
type Contest struct {
	// Capacity is what the cluster has, Idle what nobody holds, in milli-GPU by class.
	Capacity, Idle map[string]int64
	// Waiting are jobs that Admit lets through.
	Waiting []Waiting
}

// Waiting is a job that waits.
type Waiting struct {
	Job Job
	// Classes are those that it can run on; nil for any.
	Classes []string
	// Stuck says that the scheduler found no place for it since anything became free: what is idle is not kept for it.
	Stuck bool
}

// Turns says which jobs may try now. Queues below their guarantee come first, then those with the smallest dominant share above it for
// their weight, level by level from the top; within a queue priority, then age. A job that has no room left is passed over, so
// that it blocks nobody, except that within its own queue later jobs of the same priority may not take what it waits for unless it is stuck.
// What is idle is never left idle while a job that is not stuck could use it.
func (b *Book) Turns(c Contest) []bool { panic("to be built") }
