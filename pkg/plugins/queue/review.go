package queue

import (
	"context"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/queues"
	"weft.sh/weft/pkg/quota"
)

const (
	// debounce is how long the worker waits for more to change.
	debounce = 50 * time.Millisecond
	// ease is how many times longer than a review took the worker rests after it.
	ease = 10
	// turnPatience is how long a job may have its turn without being tried until what is idle is kept for it no more: another plugin
	// holds it back.
	turnPatience = 5 * time.Second
	// staleAfter is how old a checkpoint may be; the controller writes one every 15 seconds.
	staleAfter = 5 * time.Minute
)

// start waits until everything is known, and then works until the context ends.
func (s *State) start(ctx context.Context) {
	for {
		err := s.prepare(ctx)
		if err == nil {
			break
		}
		if ctx.Err() == nil {
			logger().Error(err, "Reading what is there; it is tried again")
		}
		if !pause(ctx, time.Second) {
			return
		}
	}
	if names := s.stale(); len(names) > 0 && !s.records.known {
		logger().Info("The books of some budgets are not kept at the moment: what pods used since, that are deleted, is not known", "queues", names)
	}
	close(s.settled)
	s.teller.start(ctx)
	go s.record(ctx)
	s.kick()
	s.work(ctx)
}

// prepare returns when the queues, and all pods that existed at the start, are known.
func (s *State) prepare(ctx context.Context) error {
	if err := s.waitForSync(ctx); err != nil {
		return err
	}
	if err := s.options.GPUs.Wait(ctx); err != nil {
		return err
	}
	s.renewed.Store(true)
	if s.take() {
		if err := s.adoptEnded(ctx); err != nil {
			return err
		}
		if err := s.restore(ctx); err != nil {
			return err
		}
	}
	s.synced.Store(true)
	return nil
}

// stale are the queues with a budget that holds pods back whose checkpoint is older than staleAfter: the controller is away.
func (s *State) stale() (names []string) {
	if !s.active.Load() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range s.tree.Names() {
		spec, _ := s.tree.Spec(name)
		if spec.Budget == nil || spec.Budget.Enforcement != quota.Hold && spec.Budget.Enforcement != quota.Drain {
			continue
		}
		if c, ok := s.set.Checkpoint(name); ok && s.now().Sub(time.Unix(c.AsOf, 0)) > staleAfter {
			names = append(names, name)
		}
	}
	return names
}

// wait returns when everything is known: no decision is made before.
func (s *State) wait(ctx context.Context) error {
	select {
	case <-s.settled:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for queues: %w", context.Cause(ctx))
	}
}

// work moves the time on at each second, for that is when periods and windows begin, and looks at everything that waits when
// something changed.
func (s *State) work(ctx context.Context) {
	for {
		now := s.now()
		second := time.NewTimer(now.Truncate(time.Second).Add(time.Second).Sub(now))
		select {
		case <-ctx.Done():
			second.Stop()
			return
		case <-second.C:
		case <-s.wake:
			second.Stop()
			if !pause(ctx, debounce) {
				return
			}
		}
		s.advance() // however it was woken: where something changes all the time, no second passes without that
		s.take()
		if s.moved.Swap(false) {
			s.recount()
		}
		begun := time.Now()
		s.review()
		if !pause(ctx, min(ease*time.Since(begun), time.Second)) {
			return
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// advance is what each second does, once.
func (s *State) advance() {
	if !s.active.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now().Unix()
	if now == s.advanced {
		return
	}
	s.advanced = now
	s.book.Advance(now)
	s.version++
	s.release(func(types.UID, *hold) bool { return true })
	s.expire()
}

// take brings set, tree and checkpoints up to date, and reports whether there are queues.
func (s *State) take() bool {
	if !s.renewed.Swap(false) {
		return s.active.Load()
	}
	set := s.source.Set()
	tree := set.Tree()
	names := tree.Names()
	s.mu.Lock()
	// A set with the same tree differs in statuses alone: then nobody's claims change.
	if tree != s.tree {
		s.set, s.tree = set, tree
		s.book.SetTree(tree)
		s.moved.Store(true)
	}
	for _, name := range names {
		if c, ok := set.Checkpoint(name); ok {
			s.book.SetCheckpoint(name, c)
		}
	}
	s.book.Advance(s.now().Unix())
	s.version++
	s.mu.Unlock()
	switch was := s.active.Swap(len(names) > 0); {
	case len(names) == 0:
		s.dismiss()
	case !was:
		s.adopt()
	}
	return len(names) > 0
}

// dismiss forgets everything, for there are no queues (any more), and has those tried that waited.
func (s *State) dismiss() {
	var pods []*v1.Pod
	s.mu.Lock()
	for _, w := range s.waiting {
		pods = append(pods, w.pod)
	}
	s.forget()
	s.mu.Unlock()
	s.activate(pods)
}

// adopt is for the first queue: it makes everything known that was not looked at without one.
func (s *State) adopt() {
	for _, p := range s.pods() {
		if p.Spec.NodeName != "" {
			s.bound(p)
			continue
		}
		if s.handle(p.Spec.SchedulerName) == nil || !asks(p) || len(p.Spec.SchedulingGates) > 0 {
			continue
		}
		s.mu.Lock()
		s.note(p)
		s.mu.Unlock()
	}
}

// adoptEnded counts pods that ended and that the books may not have yet: kube-scheduler's informer does not show them to a scheduler that
// starts.
func (s *State) adoptEnded(ctx context.Context) error {
	for _, phase := range []v1.PodPhase{v1.PodSucceeded, v1.PodFailed} {
		o := metav1.ListOptions{FieldSelector: "status.phase=" + string(phase), Limit: 500}
		for {
			list, err := s.client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, o)
			if err != nil {
				return fmt.Errorf("pods that ended: %w", err)
			}
			s.mu.Lock()
			for i := range list.Items {
				pod := &list.Items[i]
				if pod.Spec.NodeName == "" || podspec.Bound(pod) {
					continue
				}
				if claim, ok := s.claimBound(s.set, pod); ok && claim.End != 0 {
					s.book.Set(claim)
				}
			}
			s.mu.Unlock()
			if o.Continue = list.Continue; o.Continue == "" {
				break
			}
		}
	}
	return nil
}

// pods are all pods that the API server shows and that have not ended.
func (s *State) pods() []*v1.Pod {
	pods, err := s.informers.Core().V1().Pods().Lister().List(labels.Everything())
	if err != nil { // a store in memory does not fail
		return nil
	}
	return pods
}

// review decides anew about all jobs that wait, and has those tried of which the answer changed.
func (s *State) review() {
	s.judgeAll()
	s.lines()
	s.turns()
	s.seek()
	var try []*v1.Pod
	s.each(func(j *job) { try = append(try, s.decide(j)...) })
	s.activate(try)
}

// judgeAll brings all verdicts up to date, and with them which queues' jobs wait for nothing but their turn.
func (s *State) judgeAll() { s.each(s.judge) }

// each calls the function for all jobs, with the lock held, and lets PreEnqueue in between.
func (s *State) each(f func(*job)) {
	s.mu.Lock()
	all := make([]*job, 0, len(s.jobs))
	for _, j := range s.jobs {
		all = append(all, j)
	}
	s.mu.Unlock()
	for chunk := range slices.Chunk(all, chunkSize) {
		s.mu.Lock()
		for _, j := range chunk {
			if len(j.members) > 0 {
				f(j)
			}
		}
		s.mu.Unlock()
	}
}

// decide returns the pods of the job to try: those that may go on now, and those that may not any more and do not know, for they look
// as if nodes would help them. The lock is held.
func (s *State) decide(j *job) (try []*v1.Pod) {
	s.judge(j)
	pass := j.verdict.OK() && s.mayTry(j)
	if pass && j.dear != nil {
		job := quota.Job{*j.dear}
		if j.surplus == nil {
			job = append(job, j.required()...)
		}
		job = deleteID(job[:1], job[1:], j.dear.ID)
		if s.admit(job).OK() {
			j.dear = nil
			for _, w := range j.members {
				try = append(try, w.pod)
			}
			return try
		}
	}
	for uid, w := range j.members {
		v := s.verdictFor(w)
		pass := v.OK() && s.mayTry(j)
		switch {
		case w.gated && pass, !w.gated && !pass && s.holds[uid] == nil, w.gated && !v.OK() && (j.seeker == uid || s.probes(uid)):
			try = append(try, w.pod)
		case w.gated:
			s.teller.tell(uid)
		}
	}
	return try
}

// deleteID appends to the first the claims of the others but the one of the ID.
func deleteID(first, others quota.Job, id string) quota.Job {
	out := append(quota.Job{}, first...)
	for _, c := range others {
		if c.ID != id {
			out = append(out, c)
		}
	}
	return out
}

// lines decides who of those that wait in one queue goes before the job that a limit holds back.
func (s *State) lines() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.limited) == 0 {
		return
	}
	var jobs []*job
	var waiting []quota.Job
	for _, j := range s.jobs {
		if !j.eligible && !j.limited || s.limited[j.queue] == 0 || s.eligible[j.queue] == 0 || s.inFlight(j) {
			continue
		}
		if wanting := j.wanting(); len(wanting) > 0 {
			jobs, waiting = append(jobs, j), append(waiting, wanting)
		}
	}
	for i, behind := range s.book.Behind(waiting) {
		if jobs[i].line = granted; behind {
			jobs[i].line = denied
		}
	}
}

// turns decides who of those that wait may try, where jobs of several queues do.
func (s *State) turns() {
	s.mu.Lock()
	contested := len(s.eligible) > 1
	set := s.set
	s.mu.Unlock()
	if !contested {
		return
	}
	now, freed := s.now(), s.freed() // before it is looked at what is idle
	capacity, idle := s.room(set)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := quota.Contest{Capacity: capacity, Idle: idle}
	var jobs []*job
	for _, j := range s.jobs {
		if !j.eligible || s.inFlight(j) || s.inLine(j) && j.line == denied {
			continue // one that its own queue holds back takes nothing
		}
		if !j.given.IsZero() && now.Sub(j.given) > turnPatience {
			j.absent = true
		}
		wanting := j.wanting()
		if len(wanting) == 0 {
			continue
		}
		jobs = append(jobs, j)
		c.Waiting = append(c.Waiting, quota.Waiting{Job: wanting, Classes: s.classesOf(j), Stuck: j.stuckAt(freed)})
	}
	may := s.book.Turns(c)
	live := false
	for i, j := range jobs {
		live = live || may[i] && !j.stuckAt(freed)
	}
	for i, j := range jobs {
		if live && !may[i] {
			j.turn, j.given = denied, time.Time{}
			continue
		}
		// When nobody is about to take what is idle all may try: those without room are to be seen by autoscalers.
		j.turn = granted
		if j.until = 0; j.stuckAt(freed) || !may[i] {
			// Who goes first when GPUs become free is another question.
			j.until, j.given = freed+1, time.Time{}
		} else if j.given.IsZero() {
			j.given = now
		}
	}
}

// classesOf are the classes that the job can run on, nil for any. The lock is held.
func (s *State) classesOf(j *job) []string {
	for _, w := range j.members {
		if w.asks {
			return s.set.ClassesOf(w.pod)
		}
	}
	return nil
}

// room is what the cluster has and what is idle, in milli-GPU by class.
func (s *State) room(set *queues.Set) (capacity, idle map[string]int64) {
	capacity, idle = map[string]int64{}, map[string]int64{}
	nodes := s.informers.Core().V1().Nodes().Lister()
	for _, n := range s.options.GPUs.Cache().Nodes() {
		node, err := nodes.Get(n.Name)
		if err != nil || node.Spec.Unschedulable {
			continue
		}
		for i := range n.GPUs {
			if n.GPUs[i].Unhealthy {
				continue
			}
			class := set.ClassOn(node.Labels, n.GPUs[i].Product, "").Name
			capacity[class] += gpu.WholeMilliGPU
			idle[class] += max(0, gpu.WholeMilliGPU-n.AssignedMilliGPU(i))
		}
	}
	return capacity, idle
}
