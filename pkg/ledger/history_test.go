package ledger

import (
	"fmt"
	"math/rand/v2"
)

// What happens to pods, and how a recorder learns of it: late, not at all, or twice.

const (
	tick = 15
	// behind is how far the watermark stays behind the clock.
	behind = 2
	// epochStart is when histories begin, a tick.
	epochStart = int64(1_767_225_600)
)

// life is what really happens to a pod.
type life struct {
	Segment // What its segments have in common; Start is when it is bound.
	// ran is when its containers began to run, maxTime if they never did; repriced is when the price changed and ended when it ended.
	ran, repriced, ended int64
	// ranSeen and endedSeen are when the recorder learns of it. It is told when the containers ended only if observed; otherwise it
	// finds the pod gone at the next tick.
	boundSeen, ranSeen, endedSeen int64
	observed                      bool
}

func history(seed uint64, pods int, over int64) []life {
	r := rand.New(rand.NewPCG(seed, 1))
	late := func(at int64) int64 {
		switch r.IntN(10) {
		case 0: // The event was lost; a relist finds it.
			return at + tick*(1+r.Int64N(10))
		default:
			return at + r.Int64N(behind+1)
		}
	}
	lives := make([]life, pods)
	for i := range lives {
		milliGPU := []int64{125, 250, 333, 1000, 4000, 8000}[r.IntN(6)]
		start := epochStart + r.Int64N(over)
		l := life{
			Segment: Segment{
				PodUID: fmt.Sprintf("%08x-pod-%d", r.Uint32(), i), Namespace: fmt.Sprintf("team-%d", r.IntN(3)), Pod: fmt.Sprintf("pod-%d", i),
				Node: fmt.Sprintf("node-%d", r.IntN(50)), Queue: []string{"", "a", "a/b", "ü", "日本"}[r.IntN(5)], User: "someone",
				Workload: fmt.Sprintf("Job/train-%d", i/4), Labels: map[string]string{"model": fmt.Sprintf("m%d", r.IntN(3)), "x": `"'\`},
				Class: "h100", Product: "NVIDIA-H100-80GB-HBM3", MilliGPU: milliGPU, Rate: (milliGPU*1500 + 999) / 1000,
				PriceMicros: 2_345_678, Currency: "EUR", Start: start,
			},
			boundSeen: late(start),
			observed:  r.IntN(8) != 0,
		}
		l.ran = start + r.Int64N(60)
		l.repriced = l.ran + 1 + r.Int64N(400)
		l.ended = start + r.Int64N(360)
		if l.ended <= l.ran {
			l.ran = maxTime // It never did.
		}
		l.ranSeen = late(l.ran)
		if l.endedSeen = (l.ended/tick + 1) * tick; l.observed {
			l.endedSeen = late(l.ended)
		}
		lives[i] = l
	}
	return lives
}

// lastEvent is the tick at which everybody knows everything.
func lastEvent(lives []life) int64 {
	last := int64(0)
	for i := range lives {
		last = max(last, lives[i].boundSeen, lives[i].endedSeen)
	}
	return (last/tick + 1) * tick
}

// end is the end that goes on the books, and whether it is estimated: the first tick at which the pod was not there.
func (l *life) end() (end int64, estimated bool) {
	if l.observed {
		return l.ended, false
	}
	return (l.ended/tick + 1) * tick, true
}

// segments are those of the pod with the given end: start-up, then running at the first and at the second price.
func (l *life) segments(ran, end int64) []Segment {
	part := func(number int32, from, to int64) Segment {
		s := l.Segment
		s.Number, s.Start, s.Through = number, from, max(from, min(to, end))
		s.Startup, s.Charged = number == 0, number > 0
		if number == 2 {
			s.PriceMicros = 1_111_111
		}
		return s
	}
	segments := []Segment{part(0, l.Start, ran)}
	if ran < end {
		segments = append(segments, part(1, ran, l.repriced))
	}
	if ran < end && l.repriced < end {
		segments = append(segments, part(2, l.repriced, end))
	}
	return segments
}

// recorder writes what it sees. It is as simple as can be: every tick, all that it knows of every pod that is not done.
type recorder struct {
	lives []life
	// done are the pods all of whose segments are closed on the books; opened are the segments that are on the books.
	done   map[string]bool
	opened map[key]bool
}

// newRecorder begins with what is on the books.
func newRecorder(lives []life, books []Segment) *recorder {
	r := &recorder{lives: lives, done: make(map[string]bool), opened: make(map[key]bool)}
	open := make(map[string]bool)
	last := make(map[string]Segment)
	for _, s := range books {
		r.opened[key{s.PodUID, s.Number}] = true
		open[s.PodUID] = open[s.PodUID] || s.End == 0
		last[s.PodUID] = s
	}
	for uid, s := range last {
		// A tick that closed one segment opened the next in the same transaction, so this is what is final.
		r.done[uid] = !open[uid] && s.Closed != "next"
	}
	return r
}

// at is what there is to commit at a tick.
func (r *recorder) at(now int64) (segments []Segment) {
	for i := range r.lives {
		l := &r.lives[i]
		if r.done[l.PodUID] || l.boundSeen > now || l.Start > now-behind {
			continue
		}
		// As far as is known it goes on.
		ran, end, ended := now-behind, now-behind, false
		if l.ranSeen <= now {
			ran = min(l.ran, now-behind)
		}
		estimated := false
		if l.endedSeen <= now {
			end, estimated = l.end()
			ended = true
			ran = min(l.ran, end)
		}
		parts := l.segments(ran, end)
		for j := range parts {
			s := &parts[j]
			switch last := j == len(parts)-1; {
			case !last:
				s.End, s.Closed = s.Through, "next"
			case ended:
				s.End, s.Estimated, s.Closed = s.Through, estimated, "ended"
			case s.Number == 0 && l.ranSeen <= now && l.ran <= now-behind:
				s.End, s.Closed = s.Through, "next"
			}
		}
		// What was begun because the end was not known yet ends where it began.
		for number := int32(len(parts)); ended && r.opened[key{l.PodUID, number}]; number++ {
			s := l.segments(l.ran, max(l.repriced, l.ran)+1)[number]
			s.Through, s.End, s.Closed = s.Start, s.Start, "ended"
			parts = append(parts, s)
		}
		segments = append(segments, parts...)
	}
	return segments
}

// committed says that these are on the books.
func (r *recorder) committed(segments []Segment) {
	for i := range segments {
		s := &segments[i]
		r.opened[key{s.PodUID, s.Number}] = true
		if s.Closed == "ended" {
			r.done[s.PodUID] = true
		}
	}
}
