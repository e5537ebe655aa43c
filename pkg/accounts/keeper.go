package accounts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/ledger"
)

const (
	// lag is how far the watermark stays behind, in seconds: a pod's event takes a moment to get here. Whoever decides with a
	// checkpoint counts what runs since by itself.
	lag = 2
	// reviewEvery is after how many ticks all pods are looked at, whether they changed or not.
	reviewEvery = 20
	// standBy is for how long, in seconds, one that does not lead remembers which pods went: longer than it takes to take over.
	standBy = 600
)

// Options say what a keeper reads and writes.
type Options struct {
	Store ledger.Store
	// Pods has the informer of pods. Whoever made it starts it.
	Pods informers.SharedInformerFactory
	// Terms are what a bound pod is charged by, and whether it holds GPUs at all. Where they are not certain, for its node is not
	// known, those that it was charged by before count.
	Terms func(pod *v1.Pod) (t Terms, certain, holds bool)
	// Tick is the time between two commits, at least a second.
	Tick time.Duration
	// UserLabel is the pod label that names the user, Labels those that are kept for reports.
	UserLabel string
	Labels    []string
	// Wall is the clock; nil for the machine's.
	Wall func() time.Time
	// Committed is called after each commit with the watermark, by the goroutine of Run; nil for nobody.
	Committed func(ctx context.Context, epoch, asOf int64)
}

// Keeper keeps the ledger: it charges what pods hold, tick by tick. One works at a time; the ledger refuses the others.
type Keeper struct {
	o        Options
	lister   corelisters.PodLister
	synced   cache.InformerSynced
	clock    *clock
	reviewed atomic.Bool // false when all pods are to be looked at
	position atomic.Pointer[[2]int64]

	mu sync.Mutex
	// leads says that Run was called. Until then nothing is charged, and only pods that go are noted, for a while.
	leads bool
	// notes are the pods of which something was heard since the last commit. One that is gone stays until its end is on the books.
	notes map[types.UID]note
	// gone are those noted before Run, the earliest first.
	gone []types.UID

	// What follows belongs to the goroutine of Run.

	epoch, asOf int64
	ticks       int
	// doubt says that the last commit failed: the ledger may have it for all that, and what is known of the books may be old.
	doubt bool
	// accounts has the last segment of each pod that is there or is not settled.
	accounts map[types.UID]ledger.Segment
	// suspects are those whose pod was not there at the last review. The event may be on its way.
	suspects map[types.UID]bool
	// refused are pods that the ledger does not take: see commit.
	refused map[types.UID]bool
}

// note is the last known state of a pod, and when it was seen to go.
type note struct {
	pod   *v1.Pod
	there Presence
	seen  int64
}

// NewKeeper registers with the factory's informer; nothing happens before Run.
func NewKeeper(o Options) (*Keeper, error) {
	if o.Tick < time.Second {
		return nil, fmt.Errorf("the time between two commits is %v: want a second or more", o.Tick)
	}
	if o.Wall == nil {
		o.Wall = time.Now
	}
	pods, started := o.Pods.Core().V1().Pods(), time.Now()
	k := &Keeper{
		o: o, lister: pods.Lister(), clock: &clock{wall: o.Wall, passed: func() time.Duration { return time.Since(started) }},
		notes:    map[types.UID]note{},
		accounts: map[types.UID]ledger.Segment{}, suspects: map[types.UID]bool{}, refused: map[types.UID]bool{},
	}
	r, err := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { k.note(obj, Present) },
		UpdateFunc: func(before, after any) {
			// A deletion that was missed shows as another pod of the same name.
			if b, a := before.(*v1.Pod), after.(*v1.Pod); b.UID != a.UID {
				k.note(b, Missed)
			}
			k.note(after, Present)
		},
		DeleteFunc: func(obj any) {
			if t, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				k.note(t.Obj, Missed)
				return
			}
			k.note(obj, Deleted)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("informer of pods: %w", err)
	}
	k.synced = r.HasSynced
	registerMetrics()
	k.clock.start()
	return k, nil
}

// note remembers that something was heard of a pod.
func (k *Keeper) note(obj any, there Presence) {
	pod, ok := obj.(*v1.Pod)
	if !ok || pod.Spec.NodeName == "" {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.clock.now()
	if k.leads {
		k.notes[pod.UID] = note{pod, there, now}
		return
	}
	if there == Present {
		return // Run looks at all that are there
	}
	k.notes[pod.UID] = note{pod, there, now}
	k.gone = append(k.gone, pod.UID)
	for k.notes[k.gone[0]].seen < now-standBy {
		delete(k.notes, k.gone[0])
		k.gone = k.gone[1:]
	}
}

// Position is the epoch and the watermark of the last commit, zeros before the first. Safe for concurrent use.
func (k *Keeper) Position() (epoch, asOf int64) {
	p := k.position.Load()
	if p == nil {
		return 0, 0
	}
	return p[0], p[1]
}

// Review has all pods looked at in the next tick: the terms changed. Safe for concurrent use.
func (k *Keeper) Review() { k.reviewed.Store(false) }

// Run leads the ledger and charges until ctx ends or another leads it, which is ErrFenced. Holder names this process, and the
// epoch will be greater than least. A ledger that cannot be reached is tried again at each tick; nothing is forgotten meanwhile.
func (k *Keeper) Run(ctx context.Context, holder string, least int64) error {
	logger := klog.FromContext(ctx).WithName("ledger")
	if !cache.WaitForCacheSync(ctx.Done(), k.synced) {
		return ctx.Err()
	}
	k.clock.start()
	k.mu.Lock()
	k.leads, k.gone = true, nil
	k.mu.Unlock()
	started := false
	ticker := time.NewTicker(k.o.Tick)
	defer ticker.Stop()
	for failures := 0; ; {
		var err error
		if !started {
			err = k.start(ctx, holder, least)
			started = err == nil
		}
		if err == nil {
			err = k.tick(ctx)
		}
		switch {
		case errors.Is(err, ledger.ErrFenced):
			return err
		case ctx.Err() != nil:
			return nil
		case err != nil:
			failed.Inc()
			if failures++; failures == 1 || failures%reviewEvery == 0 {
				logger.Error(err, "The ledger cannot be written; what runs is charged when it can be", "attempts", failures)
			}
		case failures > 0:
			logger.Info("The ledger can be written again", "attempts", failures)
			failures = 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// start leads the ledger and reads its books. Pods that went while nobody looked are closed.
func (k *Keeper) start(ctx context.Context, holder string, least int64) error {
	var err error
	if k.epoch, err = k.o.Store.Lead(ctx, holder, least); err != nil {
		return err
	}
	there, err := k.recall(ctx)
	if err != nil {
		return err
	}
	k.suspects = map[types.UID]bool{}
	for uid := range k.accounts {
		k.suspects[uid] = !there[uid] // every event up to here was heard: they are gone
	}
	return nil
}

// recall reads the watermark, the accounts that are not settled, and those of the pods that are there, which it returns. Who leads the
// ledger stays as it is.
func (k *Keeper) recall(ctx context.Context) (there map[types.UID]bool, err error) {
	asOf, err := k.o.Store.AsOf(ctx)
	if err != nil {
		return nil, err
	}
	accounts, err := k.read(ctx, ledger.Query{OpenOnly: true})
	if err != nil {
		return nil, err
	}
	pods, err := k.lister.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	// Those that are there, and those that were heard to go while another led.
	known := map[types.UID]bool{}
	for _, p := range pods {
		if p.Spec.NodeName != "" {
			known[p.UID] = true
		}
	}
	there = maps.Clone(known)
	k.mu.Lock()
	for uid := range k.notes {
		known[uid] = true
	}
	k.mu.Unlock()
	for uid := range known {
		if _, open := accounts[uid]; open {
			continue
		}
		one, err := k.read(ctx, ledger.Query{PodUID: string(uid)})
		if err != nil {
			return nil, err
		}
		maps.Copy(accounts, one)
	}
	k.asOf, k.accounts, k.doubt = asOf, accounts, false
	maps.DeleteFunc(k.suspects, func(uid types.UID, _ bool) bool { _, known := accounts[uid]; return !known })
	clear(k.refused)
	k.Review()
	return there, nil
}

// read is the last segment of each pod that the query selects.
func (k *Keeper) read(ctx context.Context, q ledger.Query) (map[types.UID]ledger.Segment, error) {
	out := map[types.UID]ledger.Segment{}
	for s, err := range k.o.Store.Segments(ctx, q) {
		if err != nil {
			return nil, err
		}
		if was, ok := out[types.UID(s.PodUID)]; !ok || was.Number < s.Number {
			out[types.UID(s.PodUID)] = s
		}
	}
	return out, nil
}

// tick charges everything up to now and commits it. When that fails nothing that was heard is forgotten, and the next tick begins with
// what the ledger has: only the reply may have been lost.
func (k *Keeper) tick(ctx context.Context) error {
	k.clock.tick(k.seconds())
	if k.doubt {
		if _, err := k.recall(ctx); err != nil {
			return err
		}
	}
	now := k.clock.now()
	through := max(now-lag, k.asOf)
	review := k.ticks%reviewEvery == 0 || !k.reviewed.Load()
	k.reviewed.Store(true)

	k.mu.Lock()
	notes := k.notes
	k.notes = map[types.UID]note{}
	k.mu.Unlock()

	work := notes
	var suspects map[types.UID]bool
	var changed []ledger.Segment
	if review {
		var err error
		if work, suspects, err = k.review(notes, now); err != nil {
			k.putBack(notes)
			return err
		}
		for uid := range suspects {
			if k.suspects[uid] {
				last := k.accounts[uid]
				changed = append(changed, CloseMissing([]ledger.Segment{last}, now, k.asOf, k.seconds())...)
			}
		}
	}
	for uid, n := range work {
		changed = append(changed, k.charge(uid, n, now, through)...)
	}
	again := func(uid types.UID) []ledger.Segment {
		if n, ok := work[uid]; ok {
			return k.charge(uid, n, now, through)
		}
		return nil
	}
	changed, err := k.commit(ctx, k.advance(changed, through), through, again)
	if err != nil {
		k.doubt = true
		k.putBack(notes)
		if review {
			k.Review()
		}
		return err
	}
	k.ticks++
	k.asOf = through
	k.position.Store(&[2]int64{k.epoch, through})
	watermark.Set(float64(through))
	for _, s := range changed {
		uid := types.UID(s.PodUID)
		if was, ok := k.accounts[uid]; !ok || was.Number <= s.Number {
			k.accounts[uid] = s
		}
	}
	if review {
		k.suspects = suspects
		maps.DeleteFunc(k.refused, func(uid types.UID, _ bool) bool { _, there := work[uid]; return !there })
	}
	for uid, n := range notes {
		if n.there != Present {
			delete(k.accounts, uid)
			delete(k.suspects, uid)
			delete(k.refused, uid)
		}
	}
	for uid := range k.suspects {
		if Settled([]ledger.Segment{k.accounts[uid]}) {
			delete(k.accounts, uid)
			delete(k.suspects, uid)
		}
	}
	if k.o.Committed != nil {
		k.o.Committed(ctx, k.epoch, k.asOf)
	}
	return nil
}

// commit commits the segments, and returns those that were. A pod whose segments do not go with its rows is charged again after them,
// once. One whose segments the ledger does not take, because somebody changed its rows, is left out from then on: it must not keep all
// others from being charged.
func (k *Keeper) commit(
	ctx context.Context, changed []ledger.Segment, through int64, again func(types.UID) []ledger.Segment,
) ([]ledger.Segment, error) {
	tried := map[types.UID]bool{}
	for {
		err := k.o.Store.Commit(ctx, k.epoch, through, changed)
		var bad *ledger.SegmentError
		if !errors.As(err, &bad) {
			return changed, err
		}
		uid := types.UID(bad.PodUID)
		changed = slices.DeleteFunc(changed, func(s ledger.Segment) bool { return s.PodUID == bad.PodUID })
		delete(k.accounts, uid)
		if errors.Is(err, ledger.ErrConflict) && !tried[uid] {
			tried[uid] = true
			one, err := k.read(ctx, ledger.Query{PodUID: bad.PodUID})
			if err != nil {
				return nil, err
			}
			maps.Copy(k.accounts, one)
			changed = k.advance(append(changed, again(uid)...), through)
			continue
		}
		klog.FromContext(ctx).Error(err, "A pod is not charged any more; everything else is", "uid", bad.PodUID)
		refused.Inc()
		k.refused[uid] = true
	}
}

// advance adds the open segments that nothing else changed, charged to the moment, and puts all in order.
func (k *Keeper) advance(changed []ledger.Segment, through int64) []ledger.Segment {
	known := make(map[string]bool, len(changed))
	for _, s := range changed {
		known[s.PodUID] = true
	}
	for _, s := range k.accounts {
		if s.End == 0 && s.Through < through && !known[s.PodUID] {
			s.Through = through
			changed = append(changed, s)
		}
	}
	slices.SortFunc(changed, func(a, b ledger.Segment) int {
		return cmp.Or(cmp.Compare(a.PodUID, b.PodUID), cmp.Compare(a.Number, b.Number))
	})
	return changed
}

func (k *Keeper) seconds() int64 { return int64(k.o.Tick / time.Second) }

// review is a note of every pod, those that were heard of and all others, and the accounts of pods that are not there.
func (k *Keeper) review(notes map[types.UID]note, now int64) (all map[types.UID]note, missing map[types.UID]bool, err error) {
	pods, err := k.lister.List(labels.Everything())
	if err != nil {
		return nil, nil, err
	}
	all = make(map[types.UID]note, len(pods))
	for _, p := range pods {
		if p.Spec.NodeName != "" {
			all[p.UID] = note{p, Present, now}
		}
	}
	for uid, n := range notes {
		if _, there := all[uid]; !there || n.there != Present {
			all[uid] = n
		}
	}
	missing = map[types.UID]bool{}
	for uid := range k.accounts {
		if _, ok := all[uid]; !ok {
			missing[uid] = true
		}
	}
	return all, missing, nil
}

// charge is what changes in a pod's account.
func (k *Keeper) charge(uid types.UID, n note, now, through int64) []ledger.Segment {
	if k.refused[uid] {
		return nil
	}
	var was []ledger.Segment
	if s, ok := k.accounts[uid]; ok {
		was = append(was, s)
	}
	if n.there != Present {
		now = n.seen
	}
	o, ok := Observe(n.pod, n.there, now, k.asOf, k.seconds())
	if !ok || len(was) == 0 && o.End != 0 && o.End <= k.asOf-ledger.MinRetention {
		return nil // never bound; or so long ago that its rows may be rolled up already
	}
	terms, certain, holds := k.o.Terms(n.pod)
	switch {
	case holds && certain, holds && len(was) == 0:
		o.Terms = terms
	case len(was) > 0:
		o.Terms = termsOf(&was[0])
	default:
		return nil
	}
	o.User = n.pod.Labels[k.o.UserLabel]
	for _, key := range k.o.Labels {
		if v, ok := n.pod.Labels[key]; ok {
			if o.Labels == nil {
				o.Labels = map[string]string{}
			}
			o.Labels[key] = v
		}
	}
	return Charge(was, o, through)
}

// putBack returns notes that could not be committed, unless something newer was heard.
func (k *Keeper) putBack(notes map[types.UID]note) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for uid, n := range notes {
		if _, newer := k.notes[uid]; !newer || n.there != Present {
			k.notes[uid] = n
		}
	}
}
