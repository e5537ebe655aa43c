package quota

// Book is what all queues have at one moment: the tree, its checkpoints and the claims of all pods. Whoever shares one among
// goroutines locks it.
type Book struct{}

// NewBook is a book without queues.
func NewBook() *Book { panic("to be built") }

// SetTree replaces the tree. Claims and checkpoints stay.
func (b *Book) SetTree(t *Tree) { panic("to be built") }

// Tree is the tree, never nil.
func (b *Book) Tree() *Tree { panic("to be built") }

// SetCheckpoint replaces what the books say of a queue's subtree. One that is older than what is known is ignored, unless the
// period differs.
func (b *Book) SetCheckpoint(queue string, c Checkpoint) { panic("to be built") }

// Set adds a claim that started, or replaces the one of the same ID.
func (b *Book) Set(c Claim) { panic("to be built") }

// Delete takes a claim back as if it had never been: a start that was undone. One that ran and ended is Set with its End instead.
func (b *Book) Delete(id string) { panic("to be built") }

// Advance moves the time on: new periods, windows, holds of claims that run longer than they said, claims that are on the books
// and can be forgotten. Its cost grows with the claims; the other methods' does not. The time does not go back.
func (b *Book) Advance(now int64) { panic("to be built") }

// Admit says whether the job may start at the time of Advance, whatever may be idle. Claims of the job that the book has already
// are not counted twice. The cost grows with the depth of the tree and the periods that the job touches; nothing is allocated when it is admitted.
func (b *Book) Admit(j Job) Verdict { panic("to be built") }

// Standing is what a queue's subtree has.
type Standing struct {
	Share
	// Running is what claims hold at the same time, in milli-GPU, and Borrowed what of it is above the guarantee.
	Running, Borrowed int64
	// RunningByClass is Running by class of GPUs.
	RunningByClass map[string]int64
	// Start, End, Used, Held and Limit are those of the budget's period now; all 0 without a budget.
	Start, End, Used, Held, BudgetLimit int64
	// Exhausted says that the budget is used up and is enforced by more than a notice.
	Exhausted bool
}

// Standing is how the queue stands, false where there is no such queue.
func (b *Book) Standing(queue string) (Standing, bool) { panic("to be built") }

// Holder is a claim of the book by its ID.
func (b *Book) Holder(id string) (Claim, bool) { panic("to be built") }
