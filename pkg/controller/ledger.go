package controller

import (
	"context"
	"errors"
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
}

// newBooks registers with the controller's informers.
func newBooks(o Options, c *Controller) (*books, error) {
	b := &books{o: *o.Ledger, nodes: c.factory.Core().V1().Nodes().Lister()}
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
	largest := parts[0]
	t = accounts.Terms{
		Queue: claim.Queue, Class: largest.Class.Name, Product: largest.Product, Profile: largest.Profile,
		PriceMicros: largest.Class.PriceMicros, Currency: largest.Class.Currency, ChargeStartup: true,
	}
	for _, p := range parts {
		t.MilliGPU += p.MilliGPU
		t.Rate += p.Class.Rate(p.MilliGPU)
	}
	// The nearest queue with a budget says whether its start-up is charged.
	for _, queue := range set.Tree().Path(claim.Queue) {
		if spec, _ := set.Tree().Spec(queue); spec.Budget != nil {
			t.ChargeStartup = spec.Budget.ChargeStartup
			break
		}
	}
	return t, node != nil, true
}

// committed brings the queues up to what the ledger has.
func (b *books) committed(ctx context.Context, epoch, asOf int64) {
	if err := b.steward.Pass(ctx, epoch, asOf); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Not all queues are up to date; trying again after the next commit")
	}
}

// work keeps the ledger until the context ends. The error is that another leads it.
func (b *books) work(ctx context.Context, holder string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	least := int64(0)
	for _, name := range b.queues.Set().Tree().Names() {
		if q := b.queues.Queue(name); q != nil && q.Status.Budget != nil {
			least = max(least, q.Status.Budget.Epoch)
		}
	}
	go b.compact(ctx)
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
