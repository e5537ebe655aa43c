package quota

// Tree is the queues, checked. It does not change.
type Tree struct{}

// Problem is what is wrong with a queue, for its condition and for the pods that it holds back.
type Problem struct {
	Queue, Message string
}

// NewTree makes a tree of the queues, in any order. A queue that contradicts another, and all below it, stay in the tree but admit
// nothing; the problems say why, by name.
func NewTree(specs []Spec) (*Tree, []Problem) { panic("to be built") }

// Names are all queues, sorted.
func (t *Tree) Names() []string { panic("to be built") }

// Spec is the spec of the queue as it counts, and false where there is none.
func (t *Tree) Spec(queue string) (Spec, bool) { panic("to be built") }

// Path is the queue and those above it up to the top, nil for one that does not exist.
func (t *Tree) Path(queue string) []string { panic("to be built") }

// Children are the queues right below, sorted; of "" those at the top.
func (t *Tree) Children(queue string) []string { panic("to be built") }

// ShareAt is what may run at the same time at that moment: the queue's own share, or that of the window that is open.
func (t *Tree) ShareAt(queue string, now int64) Share { panic("to be built") }

// NextChange is the next moment after now at which a window opens or closes or a period begins, NoLimit when none ever does.
func (t *Tree) NextChange(now int64) int64 { panic("to be built") }
