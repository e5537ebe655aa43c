package controller

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/eviction"
	"weft.sh/weft/pkg/gang"
)

// evictions is how many members of a gang are evicted at a time: a large one should not leave one by one.
const evictions = 16

// Reasons of the events. They are about the pods, and the first also about the PodGroup.
const (
	eventEvicted  = "GangEvicted"
	eventBlocked  = "GangEvictionBlocked"
	eventOrphaned = "GangOrphaned"
)

// evict has the members leave, each by itself: a gang that runs in part loses nothing when it leaves in part, and what leaves gives its
// GPUs back. The error is for those that could not: it is to be tried again.
func (c *Controller) evict(ctx context.Context, k gang.Key, g *known, pg group, pods []*v1.Pod, next gang.Next) error {
	// What is tried again is one eviction.
	if id := fmt.Sprintf("%s %s", next.Reason, g.status.Since.Format(time.RFC3339)); g.eviction != id {
		g.eviction = id
		evicted.WithLabelValues(string(next.Reason)).Inc()
		klog.FromContext(ctx).Info("Evicting the members of a gang", "podgroup", klog.KRef(k.Namespace, k.Name), "members", len(next.Evict), "reason", next.Why)
		c.recorder.Eventf(pg.reference, nil, v1.EventTypeWarning, eventEvicted, "Evict", "%s", note(next.Why))
	}
	var mu sync.Mutex
	var errs []error
	workqueue.ParallelizeUntil(ctx, evictions, len(next.Evict), func(i int) {
		pod := pods[next.Evict[i]]
		leaves, err := eviction.Evict(ctx, c.client, pod)
		switch {
		case leaves:
			c.recorder.Eventf(pod, pg.reference, v1.EventTypeWarning, eventEvicted, "Evict", "%s", note(k.String()+": "+next.Why))
		case err == nil:
		default:
			if blocked := (*eviction.BlockedError)(nil); errors.As(err, &blocked) {
				c.recorder.Eventf(pod, pg.reference, v1.EventTypeWarning, eventBlocked, "Evict",
					"%s", note("to be evicted, and a PodDisruptionBudget is in the way: "+blocked.Why))
			}
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		}
	})
	if len(errs) > 3 {
		errs = append(errs[:3], fmt.Errorf("and %d more", len(errs)-3))
	}
	return errors.Join(errs...)
}

// note is a text as long as the API server takes for an event.
func note(text string) string { return clip(text, 1024) }

// clip shortens a text to so many bytes, and leaves no half character.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-4], "") + " ..."
}
