package controller

import (
	"context"
	"errors"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/accounts"
	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/queues"
	"weft.sh/weft/pkg/steward"
)

// LedgerOptions say how the ledger is kept.
type LedgerOptions struct {
	Store ledger.Store
	// Tick is the time between two commits.
	Tick time.Duration
	// Retention is for how long rows are kept before they are rolled up, at least [ledger.MinRetention].
	Retention time.Duration
	// UserLabel is the pod label that names the user, Labels those that are kept for reports.
	UserLabel string
	Labels    []string
}

// compactEvery is how often old rows are rolled up.
const compactEvery = 6 * time.Hour

// books keeps the ledger and the statuses of queues.
type books struct {
	o       LedgerOptions
	queues  *queues.Tracker
	keeper  *accounts.Keeper
	steward *steward.Steward
	nodes   corelisters.NodeLister
	// commits has the last commit that no pass has looked at yet: epoch and watermark.
	commits chan [2]int64
}

// newBooks registers with the controller's informers.
func newBooks(o Options, c *Controller) (*books, error) {
	b := &books{o: *o.Ledger, nodes: c.factory.Core().V1().Nodes().Lister(), commits: make(chan [2]int64, 1)}
	var err error
	if b.queues, err = queues.NewTracker(o.Groups, c.factory); err != nil {
		return nil, err
	}
	b.keeper, err = accounts.NewKeeper(accounts.Options{
		Store: o.Ledger.Store, Pods: c.factory, Terms: b.terms, Tick: o.Ledger.Tick,
		UserLabel: o.Ledger.UserLabel, Labels: o.Ledger.Labels, Committed: b.committed,
	})
	if err != nil {
		return nil, err
	}
	b.queues.OnChange(func(*queues.Set) { b.keeper.Review() })
	b.steward = steward.New(steward.Options{
		Client: o.Client, Dynamic: o.Groups, Recorder: o.Recorder, Store: o.Ledger.Store,
		Queues: b.queues.Set, Objects: b.queues.Queue, Pods: c.factory.Core().V1().Pods().Lister(), Nodes: b.nodes,
		Schedulers: o.Schedulers,
	})
	return b, nil
}

// terms are what a bound pod is charged by. Where its node is not known they are a guess.
func (b *books) terms(pod *v1.Pod) (t accounts.Terms, certain, holds bool) {
	node, err := b.nodes.Get(pod.Spec.NodeName)
	if err != nil {
		node = nil
	}
	set := b.queues.Set()
	claim, ok := set.Claim(pod, node)
	parts := set.Holds(pod, node)
	if !ok || len(parts) == 0 {
		return accounts.Terms{}, false, false
	}
	t = termsOf(parts)
	t.Queue, t.ChargeStartup = claim.Queue, true
	// The nearest queue with a budget says whether its start-up is charged.
	for _, queue := range set.Tree().Path(claim.Queue) {
		if spec, _ := set.Tree().Spec(queue); spec.Budget != nil {
			t.ChargeStartup = spec.Budget.ChargeStartup
			break
		}
	}
	return t, node != nil, true
}

// termsOf are what the parts are charged by together: as the largest, and at the mean price of those that have its currency.
func termsOf(parts []queues.Holds) accounts.Terms {
	largest := parts[0]
	t := accounts.Terms{
		Class: largest.Class.Name, Product: largest.Product, Profile: largest.Profile, Currency: largest.Class.Currency,
	}
	for _, p := range parts {
		t.MilliGPU += p.MilliGPU
		t.Rate += p.Class.Rate(p.MilliGPU)
	}
	if t.MilliGPU == 0 {
		return t
	}
	for _, p := range parts {
		if p.Class.Currency == t.Currency {
			// Each part by itself, so that no product overflows; what is lost is less than a millionth for each.
			whole, rest := p.Class.PriceMicros/t.MilliGPU, p.Class.PriceMicros%t.MilliGPU
			t.PriceMicros += whole*p.MilliGPU + (rest*p.MilliGPU+t.MilliGPU/2)/t.MilliGPU
		}
	}
	return t
}

// committed has the queues brought up to what the ledger has. It does not wait: the ledger is kept whether the API server answers or not.
func (b *books) committed(_ context.Context, epoch, asOf int64) {
	select {
	case <-b.commits: // an older one that nobody looked at
	default:
	}
	b.commits <- [2]int64{epoch, asOf}
}

// passes brings the queues up to each commit, or to the last of those that came meanwhile.
func (b *books) passes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-b.commits:
			if err := b.steward.Pass(ctx, c[0], c[1]); err != nil && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Not all queues are up to date; trying again after the next commit")
			}
		}
	}
}

// work keeps the ledger until the context ends. The error is that another leads it.
func (b *books) work(ctx context.Context, holder string) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	least := int64(0)
	for _, name := range b.queues.Set().Tree().Names() {
		if q := b.queues.Queue(name); q != nil && q.Status.Budget != nil {
			least = max(least, q.Status.Budget.Epoch)
		}
	}
	wg.Go(func() { b.passes(ctx) })
	wg.Go(func() { b.compact(ctx) })
	return b.keeper.Run(ctx, holder, least)
}

// compact rolls up what is older than the retention, from time to time.
func (b *books) compact(ctx context.Context) {
	logger := klog.FromContext(ctx)
	ticker := time.NewTicker(compactEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		epoch, asOf := b.keeper.Position()
		if epoch == 0 {
			continue
		}
		rows, err := b.o.Store.Compact(ctx, epoch, asOf-int64(b.o.Retention/time.Second))
		switch {
		case err == nil && rows > 0:
			logger.Info("Rolled up rows of the ledger that are older than the retention", "rows", rows)
		case err != nil && ctx.Err() == nil && !errors.Is(err, ledger.ErrFenced):
			logger.Error(err, "Old rows of the ledger could not be rolled up; trying again later", "in", compactEvery)
		}
	}
}
