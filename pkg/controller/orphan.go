package controller

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/gang"
)

// orphanPause is how long pods are given to follow their PodGroup: who deletes a whole job deletes them in some order.
const orphanPause = 5 * time.Second

// orphaned tells the pods of a gang whose PodGroup is gone what that means, once, when it leaves the gang partial: without its
// PodGroup nobody may evict those that hold a place, nor place the others, and there is no status any more to say so. Whether it
// is partial is seen from pods that wait, so a controller that did not know the PodGroup sees it too; where the pods that are
// missing do not exist, from what was known. It returns when to look again though nothing changed; zero for never.
func (c *Controller) orphaned(ctx context.Context, k gang.Key, pods []*v1.Pod, now time.Time) time.Time {
	if len(pods) == 0 {
		c.forget(k)
		return time.Time{}
	}
	c.mu.Lock()
	g := c.gangs[k]
	if g == nil {
		g = &known{}
		c.gangs[k] = g
	}
	c.mu.Unlock()
	g.forget()

	var left []*v1.Pod
	hold, wait := 0, 0
	for i, m := range membersOf(pods, c.ours) {
		switch {
		case m.Foreign, !m.Ended.IsZero():
			continue
		case m.Bound.IsZero():
			wait++
		default:
			hold++
		}
		left = append(left, pods[i])
	}
	if hold == 0 || wait == 0 && g.status.Phase != gang.PhaseUnknown {
		g.gone, g.told = time.Time{}, false
		return time.Time{}
	}
	if g.gone.IsZero() {
		g.gone = now
	}
	if due := g.gone.Add(orphanPause); !g.told && now.Before(due) {
		return due
	}
	if !g.told {
		g.told = true
		klog.FromContext(ctx).Info("A gang is left in part without its PodGroup", "podgroup", klog.KRef(k.Namespace, k.Name), "hold", hold, "wait", wait)
		for _, p := range left {
			c.recorder.Eventf(p, nil, v1.EventTypeWarning, eventOrphaned, "Judge", "%s", note(orphanNote(k, hold, wait)))
		}
	}
	return time.Time{}
}

// orphanNote is what the pods are told.
func orphanNote(k gang.Key, hold, wait int) string {
	return fmt.Sprintf("%s of %s does not exist, and its gang is partial: with a place %d, waiting for one %d. Without it no member is placed "+
		"or evicted: delete the pods, or create the PodGroup again", k, k.Source, hold, wait)
}
