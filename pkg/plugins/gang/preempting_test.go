package gang

import (
	"context"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/gang"
)

// borrowers are queues in which everybody has borrowed what they hold, whatever their priority, up to so much.
type borrowers struct {
	most     int64
	promised []string
}

func (*borrowers) Gangs(func(gang.Key) bool) {}

func (*borrowers) Room(func(context.Context, *v1.Pod, []fwk.NodeInfo) error) {}

func (*borrowers) MakeRoom(context.Context, []*v1.Pod, []fwk.NodeInfo) error { return nil }

func (*borrowers) Admitted(members []*v1.Pod) []*v1.Pod { return members }

func (b *borrowers) Reclaim([]*v1.Pod, []*v1.Pod) (gang.Caps, func(*v1.Pod) ([]int, int64, bool, bool)) {
	return gang.Caps{MilliGPU: []int64{b.most}}, func(*v1.Pod) ([]int, int64, bool, bool) { return []int{0}, 8000, true, true }
}

func (b *borrowers) Promise(_, victims []*v1.Pod, _ time.Time) {
	for _, v := range victims {
		b.promised = append(b.promised, v.Name)
	}
}

// TestSurplusLeavesWithItsGang: a gang of 4 that has 6 members is on six nodes, of which five are of one row, and a gang of 3
// whose members must be together in a row takes some of them: without its minimum the rest of it would hold GPUs for nothing.
func TestSurplusLeavesWithItsGang(t *testing.T) {
	for name, tt := range map[string]struct {
		min, size int
		queues    *borrowers
		want      string
	}{
		"all of a gang that cannot go on":             {min: 3, size: 4, want: "v-0 v-1 v-2 v-3 v-4 v-5"},
		"the surplus alone, where that is enough":     {min: 2, size: 4, want: "v-4 v-5"},
		"no more than the queue may lose":             {min: 3, size: 4, queues: &borrowers{most: 16000}},
		"all of it, where the queue may lose as much": {min: 3, size: 4, queues: &borrowers{most: 48000}, want: "v-0 v-1 v-2 v-3 v-4 v-5"},
	} {
		t.Run(name, func(t *testing.T) {
			nodes := nodesOf(6, 8)
			for i, n := range nodes {
				n.Labels[anyRow] = "b"
				if i == 0 {
					n.Labels[anyRow] = "a"
				}
			}
			inBubble(t, nodes, func(r *rig) {
				if tt.queues != nil {
					r.gangs.options.Queues = tt.queues
				}
				r.linger()
				r.group("v", int64(tt.size))
				old := membersOf("v", 6, 8, startedBefore(time.Hour))
				r.create(old...)
				if r.number() != 6 {
					t.Fatalf("bound: %q", r.bound())
				}
				r.group("g", int64(tt.min))
				r.create(membersOf("g", tt.min, 8, together(anyRow), priority(10))...)
				r.after(20 * time.Second)
				if got := r.leaving(old...); got != tt.want {
					t.Errorf("%q leave, want %q; told %q", got, tt.want, r.said("g-0"))
				}
				if tt.queues != nil && (len(tt.queues.promised) > 0) != (tt.want != "") {
					t.Errorf("the queues were promised that %q leave, want %q", tt.queues.promised, tt.want)
				}
			})
		})
	}
}
