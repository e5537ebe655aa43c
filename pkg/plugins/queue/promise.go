package queue

import (
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.sh/weft/pkg/quota"
)

// promise is for a pod that others leave for, or one that leaves. It stands until the pod is bound or gone, and no longer than its victims
// have time to go.
//
// The claim of a pod that others leave for is in the book from then on, beside those of its victims: what they leave nobody else takes.
type promise struct {
	claim   quota.Claim
	leaves  bool
	expires time.Time
}

// Promise says that the victims are about to leave for the pods, until that moment: until they have, nobody counts on what they leave, and
// the next of the queue counts on neither. A moment that has passed takes it back.
func (s *State) Promise(pods, victims []*v1.Pod, until time.Time) {
	if !s.active.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range pods {
		s.withdraw(p.UID)
		if _, runs := s.running[p.UID]; runs || !until.After(s.now()) {
			continue
		}
		if c, ok := s.set.Claim(p, nil); ok {
			c.Start = s.now().Unix()
			if s.promises[p.UID] = (promise{claim: c, expires: until}); s.holds[p.UID] == nil {
				s.book.Set(c)
			}
		}
	}
	for _, p := range victims {
		s.withdraw(p.UID)
		if c, ok := s.running[p.UID]; ok && until.After(s.now()) {
			s.promises[p.UID] = promise{claim: c, leaves: true, expires: until}
		}
	}
	s.changed()
}

// withdraw ends what is promised to the pod, or that it leaves. The lock is held.
func (s *State) withdraw(uid types.UID) {
	p, ok := s.promises[uid]
	if !ok {
		return
	}
	delete(s.promises, uid)
	if _, runs := s.running[uid]; !p.leaves && !runs && s.holds[uid] == nil {
		s.book.Delete(p.claim.ID)
	}
}

// expire ends promises that nobody waits for any more. The lock is held.
func (s *State) expire() {
	now := s.now()
	for uid, p := range s.promises {
		if _, runs := s.running[uid]; runs != p.leaves || !p.expires.After(now) {
			s.withdraw(uid)
		}
	}
}

// promisedTo reports whether others are leaving for the job. The lock is held.
func (s *State) promisedTo(j *job) bool {
	if len(s.promises) == 0 {
		return false
	}
	for _, c := range j.required() {
		if p, ok := s.promises[types.UID(c.ID)]; ok && !p.leaves {
			return true
		}
	}
	return false
}

// admit is whether the job may start; what is promised to itself is not in its way. The lock is held.
func (s *State) admit(job quota.Job) quota.Verdict {
	if len(s.promises) > 0 {
		defer s.without(job)()
	}
	return s.book.Admit(job)
}

// without takes what is promised to the job out of the book; the function puts it back. The lock is held until then.
func (s *State) without(job quota.Job) (restore func()) {
	var out quota.Job
	for i := range job {
		uid := types.UID(job[i].ID)
		if p, ok := s.promises[uid]; ok && !p.leaves && s.holds[uid] == nil {
			s.book.Delete(p.claim.ID)
			out = append(out, p.claim)
		}
	}
	return func() {
		for _, c := range out {
			s.book.Set(c)
		}
	}
}

// departed takes those who are about to leave out of the book; the function puts them back. The lock is held until then.
func (s *State) departed() (restore func()) {
	var out quota.Job
	for uid, p := range s.promises {
		if c, runs := s.running[uid]; p.leaves && runs {
			s.book.Delete(c.ID)
			out = append(out, c)
		}
	}
	return func() {
		for _, c := range out {
			s.book.Set(c)
		}
	}
}

// oneByOne are the answers for claims that start one after the other: each is asked about when those before it that may have started. The
// lock is held.
func (s *State) oneByOne(claims quota.Job) []quota.Verdict {
	out, started := make([]quota.Verdict, len(claims)), quota.Job{}
	for i := range claims {
		if out[i] = s.admit(claims[i : i+1]); out[i].OK() && i+1 < len(claims) {
			if _, there := s.book.Holder(claims[i].ID); !there {
				s.book.Set(claims[i])
				started = append(started, claims[i])
			}
		}
	}
	for i := range started {
		s.book.Delete(started[i].ID)
	}
	return out
}
