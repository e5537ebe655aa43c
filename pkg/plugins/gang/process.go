package gang

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/metrics"
	"weft.sh/weft/pkg/plugins/gpufit"
	"weft.sh/weft/pkg/podgroup"
)

// gangs is what the plugins of one process have in common: the gangs, and what is planned for them.
type gangs struct {
	options Options
	native  bool
	gpus    *gpufit.State
	tracker *podgroup.Tracker
	synced  atomic.Bool
	// dial makes the client that reads PodGroups.
	dial func(*rest.Config) (dynamic.Interface, error)

	mu      sync.Mutex
	plugins map[string]*Plugin // by profile

	queue   queue
	book    book
	waiting waiting
	looks   looks
}

func newGangs(opts Options) *gangs {
	return &gangs{
		options: opts, gpus: opts.State, plugins: map[string]*Plugin{},
		queue: newQueue(), book: newBook(opts.State), waiting: newWaiting(opts.State),
		dial: func(cfg *rest.Config) (dynamic.Interface, error) { return dynamic.NewForConfig(cfg) },
	}
}

// join adds the plugin of a profile. The first one makes what all share.
func (g *gangs) join(ctx context.Context, pl *Plugin) error {
	if err := g.gpus.Join(pl.handle); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.plugins[pl.handle.ProfileName()] = pl
	if g.tracker != nil {
		return nil
	}
	g.native = g.options.Native != nil && g.options.Native()
	o := podgroup.TrackerOptions{Pods: pl.handle.SharedInformerFactory(), Native: g.native}
	if cfg := pl.handle.KubeConfig(); cfg != nil {
		client, err := g.dial(cfg)
		if err != nil {
			return fmt.Errorf("client for PodGroups: %w", err)
		}
		o.CRD = client
	}
	tracker, err := podgroup.NewTracker(o)
	if err != nil {
		return err
	}
	g.tracker = tracker
	if g.options.Queues != nil {
		g.options.Queues.Gangs(g.complete)
		g.options.Queues.Room(g.roomBelow)
	}
	metrics.Register()
	tracker.OnChange(func(k gang.Key) { g.looks.at(k, g.changed) })
	tracker.Start(ctx)
	go g.watch(ctx, pl.now)
	return nil
}

// complete reports whether the gang can be planned at all.
func (g *gangs) complete(k gang.Key) bool {
	members := g.tracker.Members(k)
	if len(members) == 0 {
		return false
	}
	pl := g.plugin(members[0].Spec.SchedulerName)
	return pl != nil && pl.judge(k).OK()
}

// plugin is the one of the profile, nil when there is none.
func (g *gangs) plugin(profile string) *Plugin {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.plugins[profile]
}

// wait returns when all pods, PodGroups and GPUs that existed at the start are known: no decision is made before.
func (g *gangs) wait(ctx context.Context) error {
	if g.synced.Load() {
		return nil
	}
	if err := g.tracker.WaitForSync(ctx); err != nil {
		return err
	}
	if err := g.gpus.Wait(ctx); err != nil {
		return err
	}
	g.synced.Store(true)
	return nil
}

// changed looks again at a gang of which the PodGroup or a pod changed, and returns how many members it has: what it costs grows
// with them. It is called without a lock held.
func (g *gangs) changed(k gang.Key) int {
	gated := g.queue.heldBack(k)
	members := g.tracker.Members(k)
	if g.book.has(k) {
		g.book.changed(k, g.review(k, members))
	}
	if len(members) == 0 && len(g.tracker.All(k)) == 0 {
		g.release(k)
		g.queue.prune(k, gated, nil)
		g.queue.forget(k)
		g.waiting.forget(k)
		g.book.forget(k)
		return 0
	}
	g.reviewHold(k, members)
	if !g.queue.knows(k) {
		return len(members) // nobody of it is held back or was refused: it runs, or is on its way
	}
	g.queue.prune(k, gated, uids(members))
	g.activate(g.queue.ungate(k, func(p *v1.Pod) bool {
		pl := g.plugin(p.Spec.SchedulerName)
		return pl != nil && pl.judge(k).OK()
	}))
	if len(members) > 0 {
		if pl := g.plugin(members[0].Spec.SchedulerName); pl != nil && k.Source == gang.SourceCRD && !pl.judge(k).OK() {
			g.activate(g.queue.overturn(k, members))
		}
	}
	g.activate(g.queue.reviewRefusal(k, members))
	return len(members)
}

// review is what the book has to know of a gang that changed.
func (g *gangs) review(k gang.Key, members []*v1.Pod) review {
	r := review{members: uids(members), now: time.Now()}
	if len(members) == 0 {
		r.err = errors.New("all members are gone")
	} else if pl := g.plugin(members[0].Spec.SchedulerName); pl != nil {
		in, why := pl.inspect(k)
		if r.spec = in.spec; !why.OK() {
			r.err = errors.New(why.Message())
		}
		r.now = pl.now()
	}
	return r
}

// tidy gives back what members that do not come hold. Everybody who waits is then tried again, for nobody knows who was refused for
// want of it.
func (g *gangs) tidy(now time.Time) {
	if !g.book.tidy(now) {
		return
	}
	g.mu.Lock()
	var pods []*v1.Pod
	for _, pl := range g.plugins { // they have the informers in common
		pods, _ = pl.handle.SharedInformerFactory().Core().V1().Pods().Lister().List(labels.Everything()) // in memory: no error
		break
	}
	g.mu.Unlock()
	g.activate(slices.DeleteFunc(pods, func(p *v1.Pod) bool { return p.Spec.NodeName != "" }))
}

// activate has the pods tried at once. No lock of ours may be held that the queue's callbacks take.
func (g *gangs) activate(pods []*v1.Pod) {
	byProfile := map[string]map[string]*v1.Pod{}
	for _, p := range pods {
		if byProfile[p.Spec.SchedulerName] == nil {
			byProfile[p.Spec.SchedulerName] = map[string]*v1.Pod{}
		}
		byProfile[p.Spec.SchedulerName][p.Namespace+"/"+p.Name] = p
	}
	for profile, pods := range byProfile {
		if pl := g.plugin(profile); pl != nil {
			pl.handle.Activate(logger(), pods)
		}
	}
}

func uids(pods []*v1.Pod) map[types.UID]*v1.Pod {
	out := make(map[types.UID]*v1.Pod, len(pods))
	for _, p := range pods {
		out[p.UID] = p
	}
	return out
}
