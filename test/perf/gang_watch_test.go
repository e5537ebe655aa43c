package perf

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// seenPod is what a watch has seen of a pod: where it is bound, whether it runs there, and what was said when it could not be.
type seenPod struct {
	node, message string
	running       bool
}

// podWatch waits for what happens to the pods. When it happened is for [auditLog]: a watch lags behind, and more so the busier
// the API server is.
type podWatch struct {
	b       *testing.B
	stop    func()
	changed chan struct{}

	mu    sync.Mutex
	seen  map[string]*seenPod
	ended error
}

// watchPods begins where no pods are.
func (c *gangCluster) watchPods(ctx context.Context) *podWatch {
	c.b.Helper()
	pods := c.client.CoreV1().Pods(metav1.NamespaceDefault)
	list, err := pods.List(ctx, metav1.ListOptions{})
	c.must(err)
	// The API server ends a watch that does not read fast enough, as on a busy machine.
	w, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: pods.Watch,
	})
	c.must(err)
	o := &podWatch{b: c.b, stop: w.Stop, changed: make(chan struct{}, 1), seen: map[string]*seenPod{}}
	go func() {
		ended := errors.New("the watch on pods ended")
		for event := range w.ResultChan() {
			if event.Type == watch.Error {
				ended = fmt.Errorf("%w: %w", ended, apierrors.FromObject(event.Object))
			}
			o.note(event)
		}
		o.mu.Lock()
		o.ended = ended
		o.mu.Unlock()
		o.notify()
	}()
	return o
}

func (o *podWatch) notify() {
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

func (o *podWatch) note(event watch.Event) {
	pod, ok := event.Object.(*corev1.Pod)
	if !ok || event.Type == watch.Deleted {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.seen[pod.Name]
	if p == nil {
		p = &seenPod{}
		o.seen[pod.Name] = p
	}
	p.node, p.running = pod.Spec.NodeName, pod.Status.Phase == corev1.PodRunning
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			p.message = c.Message
		}
	}
	o.notify()
}

// all is a copy of what was seen of each pod.
func (o *podWatch) all() []seenPod {
	o.mu.Lock()
	defer o.mu.Unlock()
	var all []seenPod
	for _, p := range o.seen {
		all = append(all, *p)
	}
	return all
}

// wait waits until the condition holds; it returns "" for that, else what is still missing. log is what to show when it never
// does.
func (o *podWatch) wait(ctx context.Context, within time.Duration, what string, log func() string, condition func(map[string]*seenPod) string) {
	o.b.Helper()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		missing, ended := o.check(condition)
		if missing == "" {
			return
		}
		if ended == nil {
			select {
			case <-o.changed:
				continue
			case <-ctx.Done():
				ended = context.Cause(ctx)
			}
		}
		if log != nil {
			o.b.Logf("the scheduler's log:\n%s", log())
		}
		o.b.Fatalf("waiting until %s: %s: %s", what, missing, ended)
	}
}

func (o *podWatch) check(condition func(map[string]*seenPod) string) (missing string, ended error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return condition(o.seen), o.ended
}
