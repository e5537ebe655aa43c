package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/plugins/gpufit"
	"weft.sh/weft/pkg/queues"
	"weft.sh/weft/pkg/quota"
)

const stateKey fwk.StateKey = Name

// cycle is what a scheduling cycle knows of the pod's queue.
type cycle struct {
	set *queues.Set
	job quota.Job
	// at is which claim of the job is the pod's.
	at int
	// below says that room below limits is being made for the job, which are not asked about.
	below bool

	mu sync.Mutex
	// verdicts are by what a GPU counts: nodes of a class that counts more may be over the budget where others are not.
	verdicts map[int64]quota.Verdict
	dear     *quota.Claim
}

// Clone implements fwk.StateData. What the copies add is the same.
func (c *cycle) Clone() fwk.StateData { return c }

// PreFilter implements fwk.PreFilterPlugin. A pod whose queue gave to others since PreEnqueue ends the cycle with an error: a
// rejection would make the pod Unschedulable, and an autoscaler would buy nodes for it. PreEnqueue then holds it back.
func (pl *Plugin) PreFilter(ctx context.Context, state fwk.CycleState, pod *v1.Pod, nodes []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	if err := pl.shared.wait(ctx); err != nil {
		return nil, fwk.AsStatus(err)
	}
	if !pl.shared.leading.Swap(true) {
		pl.shared.kick()
	}
	if !gpufit.AsksOthers(state) {
		if err := pl.shared.MakeRoom(ctx, []*v1.Pod{pod}, nodes); err != nil {
			return nil, fwk.AsStatus(err)
		}
	}
	c, v := pl.shared.begin(pod)
	if !v.OK() {
		return nil, fwk.AsStatus(fmt.Errorf("%w: %s", errOverQuota, v.message))
	}
	if c == nil {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	state.Write(stateKey, c)
	return nil, nil
}

// PreFilterExtensions implements fwk.PreFilterPlugin.
func (pl *Plugin) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// begin is what the pod's cycle has to know; nil when every node is as good as any other.
func (s *State) begin(pod *v1.Pod) (*cycle, verdict) {
	if !s.active.Load() {
		return nil, verdict{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiting[pod.UID]
	if w == nil {
		if !asks(pod) {
			return nil, verdict{}
		}
		w = s.note(pod) // let through before there were queues
	}
	j := w.job
	s.judge(j)
	j.absent, j.tried = false, s.freed()+1
	below := j.making && j.limited
	if v := s.verdictFor(w); !v.OK() && !below {
		return nil, v
	}
	at := slices.IndexFunc(j.claims, func(c quota.Claim) bool { return c.ID == string(pod.UID) })
	if at < 0 || j.queue == "" || s.holds[pod.UID] != nil || !j.surplus[string(pod.UID)].OK() {
		return nil, verdict{}
	}
	job := j.requiredWith(at)
	return &cycle{set: s.set, job: job, at: len(job) - 1, below: below, verdicts: map[int64]quota.Verdict{j.claims[at].Rate: {}}}, verdict{}
}

// Filter implements fwk.FilterPlugin: a node whose GPUs count more than the budget has left is refused. That others leave it does not
// help. The pod may then be Unschedulable, and rightly: nodes with GPUs that the budget allows would help it.
func (pl *Plugin) Filter(_ context.Context, state fwk.CycleState, pod *v1.Pod, nodeInfo fwk.NodeInfo) *fwk.Status {
	data, err := state.Read(stateKey)
	if err != nil {
		return fwk.AsStatus(errors.New("plugin Queue: PreFilter has not run in this cycle; enable the plugin at all its extension points"))
	}
	c := data.(*cycle)
	claim, ok := c.set.ClaimOn(pod, nodeInfo.Node())
	if !ok {
		return nil
	}
	if v := c.check(pl.shared, claim); !v.OK() {
		return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, v.Message())
	}
	return nil
}

// check is whether the pod may have that claim.
func (c *cycle) check(s *State, claim quota.Claim) quota.Verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, known := c.verdicts[claim.Rate]
	if known {
		return v
	}
	job := slices.Clone(c.job)
	job[c.at] = claim
	s.mu.Lock()
	if c.below {
		v = s.book.AdmitBeyondLimits(job)
	} else {
		v = s.admit(job)
	}
	s.mu.Unlock()
	c.verdicts[claim.Rate] = v
	if !v.OK() && (c.dear == nil || claim.Rate < c.dear.Rate) {
		c.dear = &claim
	}
	return v
}

// PostFilter implements fwk.PostFilterPlugin: there is no place for the pod's job, so what is idle is not kept for it. What can be done
// for it, the other plugins do.
func (pl *Plugin) PostFilter(_ context.Context, state fwk.CycleState, pod *v1.Pod, _ fwk.NodeToStatusReader) (*fwk.PostFilterResult, *fwk.Status) {
	var dear *quota.Claim
	if data, err := state.Read(stateKey); err == nil {
		c := data.(*cycle)
		c.mu.Lock()
		dear = c.dear
		c.mu.Unlock()
	}
	pl.shared.noPlace(pod, dear)
	return nil, fwk.NewStatus(fwk.Unschedulable)
}

func (s *State) noPlace(pod *v1.Pod, dear *quota.Claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.waiting[pod.UID]; w != nil {
		if j := w.job; j.stuck != j.tried {
			j.stuck = j.tried
			if j.eligible && len(s.eligible) > 1 {
				s.kick() // it is the others' turn
			}
		}
		w.job.dear = dear
	}
}

// stuckAt reports whether what is idle need not be kept for the job.
func (j *job) stuckAt(freed uint64) bool { return j.stuck == freed+1 || j.absent }

// freed counts the times that GPUs became free: who found no place before may find one now. Plugin GPUFit's cache knows before the
// scheduling queue moves anybody for it.
func (s *State) freed() uint64 { return s.options.GPUs.Cache().Freed() }

// Reserve implements fwk.ReservePlugin: it decides, and takes the hold. A refusal is an error, as in PreFilter.
func (pl *Plugin) Reserve(_ context.Context, _ fwk.CycleState, pod *v1.Pod, nodeName string) *fwk.Status {
	if !pl.shared.active.Load() {
		return nil
	}
	node, err := pl.shared.informers.Core().V1().Nodes().Lister().Get(nodeName)
	if err != nil {
		return fwk.AsStatus(err)
	}
	if err := pl.shared.reserve(pod, node); err != nil {
		return fwk.AsStatus(err)
	}
	return nil
}

// PreBindPreFlight implements fwk.PreBindPlugin: there is nothing to do for who has a hold.
func (pl *Plugin) PreBindPreFlight(_ context.Context, _ fwk.CycleState, pod *v1.Pod, _ string) (*fwk.PreBindPreFlightResult, *fwk.Status) {
	if !pl.shared.lacksHold(pod) {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	return nil, nil
}

// PreBind implements fwk.PreBindPlugin: a member of the surplus for which there was nothing left at Reserve takes its hold now or does
// not start. The others of its plan are on their way by then.
func (pl *Plugin) PreBind(_ context.Context, _ fwk.CycleState, pod *v1.Pod, nodeName string) *fwk.Status {
	node, err := pl.shared.informers.Core().V1().Nodes().Lister().Get(nodeName)
	if err != nil {
		return fwk.AsStatus(err)
	}
	if err := pl.shared.holdSurplus(pod, node); err != nil {
		return fwk.AsStatus(err)
	}
	return nil
}

// Unreserve implements fwk.ReservePlugin.
func (pl *Plugin) Unreserve(_ context.Context, _ fwk.CycleState, pod *v1.Pod, _ string) {
	pl.shared.unreserve(pod)
}

// inFlight reports whether a member of the job is being bound. The lock is held.
func (s *State) inFlight(j *job) bool {
	for uid := range j.members {
		if s.holds[uid] != nil {
			return true
		}
	}
	return false
}
