package quota

// Reclaim is what a queue may take back from others.
type Reclaim struct {
	// Caps are how much may be taken from each group, in milli-GPU: from each subtree what it has above its guarantee.
	Caps []int64
}

// Reclaim says what the job's queue may take from others so that the job can start: nothing unless it stays within the guarantee of its queue, and of
// each above that shares one with whom it takes from.
func (b *Book) Reclaim(j Job) Reclaim { panic("to be built") }

// Groups are the indices of the caps that count for a pod of that queue (empty for a pod of no queue, which is a borrower of all
// that it has), and false when nothing may be taken from it.
func (r *Reclaim) Groups(queue string) (groups []int, ok bool) { panic("to be built") }
