package simulator

import (
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/trace"
)

// Trail is how a run came to its result: what was allocated and what was a fragment while more and more arrived, and how full
// each GPU was. It is made for a report; a lineup keeps trails only when it is asked to.
type Trail struct {
	// Arrived is how much the pods that had arrived asked for, in percent of all GPU capacity: 0, 0.5, 1 and so on. The other
	// two are of the same length and in the same unit. Each sample is after the first arrival that reached its point, the
	// last one after the last arrival.
	Arrived, Alloc, Frag []float64
	// Frames are how full the GPUs were at some of the points, at most maxFrames of them: only of the first workload with the
	// first seed, for they are large.
	Frames []Frame

	every int   // samples from one frame to the next; 0 for no frames
	first []int // by index of the node by name: where its GPUs begin in a frame
}

// Frame is how full the GPUs were at one time.
type Frame struct {
	Arrived float64
	// Used is the percentage used of each GPU, node by node in the order of [Workload.Nodes]. It is 0 only for a GPU that
	// nobody uses, and 100 only for one that is used up.
	Used []byte
}

const (
	// samplesPerPercent is the grid of a trail.
	samplesPerPercent = 2
	// maxFrames and minFrameStep bound the frames of a trail: the published load of 1.3 has one every 2.5 percent.
	maxFrames    = 60
	minFrameStep = 5
)

// Trail is how the run went; nil when the lineup was not asked to keep it.
func (l *Line) Trail() *Trail { return l.trail }

// Nodes are the nodes by name. They must not be changed.
func (w *Workload) Nodes() []trace.Node { return w.nodes }

// newTrail is the trail of a run that has not begun.
func newTrail(w *Workload, load float64, frames bool) *Trail {
	t := &Trail{}
	if frames {
		points := int(load*100*samplesPerPercent) + 1
		t.every = max(minFrameStep, (points+maxFrames-2)/(maxFrames-1))
		next := 0
		for _, n := range w.nodes {
			t.first = append(t.first, next)
			next += n.GPUs
		}
	}
	return t
}

// add takes the samples that are due.
func (t *Trail) add(r *run) {
	for n := len(t.Arrived); int64(n)*r.w.milliGPU() <= r.arrived*100*samplesPerPercent; n++ {
		t.sample(r, t.every > 0 && n%t.every == 0)
	}
}

// end takes the last sample: what arrives is up to a pod less than the load.
func (t *Trail) end(r *run) {
	if int64(len(t.Arrived)-1)*r.w.milliGPU() < r.arrived*100*samplesPerPercent {
		t.sample(r, t.every > 0)
	}
}

func (t *Trail) sample(r *run, frame bool) {
	at := float64(len(t.Arrived)) / samplesPerPercent
	t.Arrived, t.Alloc, t.Frag = append(t.Arrived, at), append(t.Alloc, r.allocation()), append(t.Frag, r.fragmentation())
	if !frame {
		return
	}
	used := make([]byte, r.w.gpus)
	for i := range r.nodes {
		first := t.first[r.order[i]]
		for g, left := range r.nodes[i].free {
			used[first+g] = usedPercent(left)
		}
	}
	t.Frames = append(t.Frames, Frame{Arrived: at, Used: used})
}

// usedPercent is what is used of a GPU that has so much left, see [Frame].
func usedPercent(left int64) byte {
	switch used := gpu.WholeMilliGPU - left; {
	case used <= 0:
		return 0
	case left <= 0:
		return 100
	default:
		return byte(min(max((used*100+gpu.WholeMilliGPU/2)/gpu.WholeMilliGPU, 1), 99))
	}
}
