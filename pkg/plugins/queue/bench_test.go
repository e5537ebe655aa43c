package queue

import (
	"fmt"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/plugins/gpufit"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/queues"
)

// crowd is a state of queues in a tree of three levels, claims of pods that run and pods that wait, without informers that run.
func crowd(tb testing.TB, number, claims, pending int) (s *State, waiting []*v1.Pod) {
	tb.Helper()
	var objects []*v1alpha1.Queue
	name := func(i int) string { return fmt.Sprintf("q%04d", i%number) }
	for i := range number {
		o := queue(name(i), budget("1000000"), gpus("", "1000000"))
		q := &v1alpha1.Queue{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.(runtime.Unstructured).UnstructuredContent(), q); err != nil {
			tb.Fatal(err)
		}
		if i >= 10 {
			q.Spec.Parent = name(i % 10)
		}
		if i >= 110 {
			q.Spec.Parent = name(10 + i%100)
		}
		objects = append(objects, q)
	}
	s = NewState(Options{GPUs: gpufit.NewState(gpufit.Options{})})
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	var err error
	if s.gangs, err = podgroup.NewTracker(podgroup.TrackerOptions{Pods: factory}); err != nil {
		tb.Fatal(err)
	}
	s.informers = factory
	s.teller = newTeller(s, nil, factory.Core().V1().Pods().Lister())
	s.set = queues.NewSet(objects, nil, nil)
	s.tree = s.set.Tree()
	s.book.SetTree(s.tree)
	s.book.Advance(s.now().Unix())
	s.active.Store(true)
	s.synced.Store(true)
	for i := range claims {
		p := pod(fmt.Sprint("r", i), name(i), "100h")
		p.UID, p.Spec.NodeName = types.UID(p.Name), "n"
		p.CreationTimestamp = metav1.NewTime(s.now().Add(-time.Duration(i) * time.Second))
		s.bound(p)
	}
	for i := range pending {
		p := pod(fmt.Sprint("w", i), name(i*7), "10h")
		p.UID = types.UID(p.Name)
		waiting = append(waiting, p)
		s.gate(p)
	}
	return s, waiting
}

// BenchmarkPreEnqueue asks about pods while claims come and go, so that no verdict stands.
func BenchmarkPreEnqueue(b *testing.B) {
	s, waiting := crowd(b, 1000, 50_000, 20_000)
	took := make([]time.Duration, 0, 1<<20)
	i := 0
	for b.Loop() {
		s.mu.Lock()
		s.version++
		s.mu.Unlock()
		begun := time.Now()
		s.gate(waiting[i%len(waiting)])
		if took = append(took, time.Since(begun)); len(took) == cap(took) {
			took = took[:0]
		}
		i++
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "p99-µs")
}

// BenchmarkPreEnqueueBesideTheWorker asks while the worker moves the time on and judges everything, over and over.
func BenchmarkPreEnqueueBesideTheWorker(b *testing.B) {
	s, waiting := crowd(b, 1000, 50_000, 20_000)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
				s.advance()
				s.judgeAll()
			}
		}
	}()
	var took []time.Duration
	i := 0
	for b.Loop() {
		begun := time.Now()
		s.gate(waiting[i%len(waiting)])
		if i%16 == 0 {
			took = append(took, time.Since(begun))
		}
		i++
	}
	close(stop)
	<-stopped
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "p99-µs")
}

func BenchmarkReview(b *testing.B) {
	s, _ := crowd(b, 1000, 50_000, 20_000)
	for b.Loop() {
		s.mu.Lock()
		s.version++
		s.mu.Unlock()
		s.judgeAll()
	}
}

func BenchmarkAdvance(b *testing.B) {
	s, _ := crowd(b, 1000, 50_000, 0)
	for b.Loop() {
		s.advance()
	}
}
