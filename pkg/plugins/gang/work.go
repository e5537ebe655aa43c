package gang

// work is what looking for places one by one may still cost in a cycle, during which nobody else is scheduled. It is counted in what
// takes about a microsecond on a machine that has nothing else to do, and not measured: the same question has the same answer
// however busy the machine is.
type work struct{ left int }

const (
	// maxWork is for one search: one for what is free, and one for what would be if others left.
	maxWork = 100_000
	// workFilter is for asking the other plugins about a node, workTell for telling a cycle of a pod, workVerify for a place of a plan
	// that is verified; workNode is how many nodes can be looked at for one.
	workFilter, workTell, workVerify, workNode = 10, 1, 25, 5
)

func (pl *Plugin) newWork() *work { return &work{left: pl.effort} }

// spend takes from what is left, as much as there is.
func (w *work) spend(amount int) { w.left = max(0, w.left-amount) }

// spent reports whether nothing is left: a search is cut short then, and says so.
func (w *work) spent() bool { return w.left == 0 }
