package accounts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"weft.sh/weft/pkg/ledger"
)

// memory is a ledger that can be away.
type memory struct {
	ledger.Store
	mu          sync.Mutex
	away        error
	epoch, asOf int64
	rows        map[string]map[int32]ledger.Segment
	refused     string // a pod whose segments it does not take
	commits     int
	// widest is the largest commit.
	widest int
}

func (m *memory) Lead(_ context.Context, _ string, least int64) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.epoch = max(m.epoch, least) + 1
	return m.epoch, m.away
}

func (m *memory) AsOf(context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asOf, m.away
}

func (m *memory) Commit(_ context.Context, epoch, asOf int64, segments []ledger.Segment) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away != nil {
		return m.away
	}
	if epoch != m.epoch {
		return ledger.ErrFenced
	}
	for _, s := range segments {
		if s.PodUID == m.refused {
			return &ledger.SegmentError{PodUID: s.PodUID, Number: s.Number, Kind: ledger.ErrConflict, Problem: "somebody changed it"}
		}
	}
	for _, s := range segments {
		if m.rows[s.PodUID] == nil {
			m.rows[s.PodUID] = map[int32]ledger.Segment{}
		}
		m.rows[s.PodUID][s.Number] = s
	}
	m.asOf = max(m.asOf, asOf)
	m.commits++
	m.widest = max(m.widest, len(segments))
	return nil
}

func (m *memory) Segments(_ context.Context, q ledger.Query) iter.Seq2[ledger.Segment, error] {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []ledger.Segment
	for uid, rows := range m.rows {
		for _, s := range rows {
			if (q.PodUID == "" || q.PodUID == uid) && (!q.OpenOnly || s.End == 0) {
				out = append(out, s)
			}
		}
	}
	slices.SortFunc(out, func(a, b ledger.Segment) int {
		return cmp.Or(cmp.Compare(a.PodUID, b.PodUID), cmp.Compare(a.Number, b.Number))
	})
	away := m.away
	return func(yield func(ledger.Segment, error) bool) {
		if away != nil {
			yield(ledger.Segment{}, away)
			return
		}
		for _, s := range out {
			if !yield(s, nil) {
				return
			}
		}
	}
}

// of are the rows of a pod as text.
func (m *memory) of(uid string) (out []string) {
	for s := range m.Segments(context.Background(), ledger.Query{PodUID: uid}) {
		out = append(out, text(s))
	}
	return out
}

// site is an API server with a keeper, in a bubble of synctest.
type site struct {
	t      *testing.T
	store  *memory
	client *fake.Clientset
}

func newSite(t *testing.T) *site {
	time.Sleep(500 * time.Millisecond) // whatever follows is in the midst of a second
	return &site{t: t, store: &memory{rows: map[string]map[int32]ledger.Segment{}}, client: fake.NewClientset()}
}

// keeper is a keeper whose informer runs; what is returned stops it.
func (s *site) keeper() (k *Keeper, factory informers.SharedInformerFactory, stop func()) {
	s.t.Helper()
	factory = informers.NewSharedInformerFactory(s.client, 0)
	k, err := NewKeeper(Options{
		Store: s.store, Pods: factory, Tick: 15 * time.Second,
		Terms: func(*v1.Pod) (Terms, bool, bool) {
			return Terms{Queue: "q", MilliGPU: 1000, Rate: 3000, ChargeStartup: true}, true, true
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return k, factory, func() { cancel(); factory.Shutdown() }
}

// bind makes a pod that got its node now.
func (s *site) bind(name string) {
	s.t.Helper()
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{NodeName: "n"},
		Status: v1.PodStatus{Phase: v1.PodRunning, ContainerStatuses: []v1.ContainerStatus{running(time.Now().Unix())}, Conditions: []v1.PodCondition{
			{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: at(time.Now().Unix())},
		}},
	}
	if _, err := s.client.CoreV1().Pods("default").Create(context.Background(), p, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) finish(name string) {
	s.t.Helper()
	ctx := context.Background()
	p, err := s.client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	p.Status.Phase = v1.PodSucceeded
	p.Status.ContainerStatuses = []v1.ContainerStatus{terminated(p.Status.ContainerStatuses[0].State.Running.StartedAt.Unix(), time.Now().Unix())}
	if _, err := s.client.CoreV1().Pods("default").UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) remove(name string) {
	s.t.Helper()
	if err := s.client.CoreV1().Pods("default").Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) want(uid string, want ...string) {
	s.t.Helper()
	if got := s.store.of(uid); !slices.Equal(got, want) {
		s.t.Errorf("%s is charged %q, want %q", uid, got, want)
	}
}

func run(from, to int64, by string) string { return fmt.Sprintf("0 run %d..%d %s", from, to, by) }

// TestALedgerThatIsAwayForAnHour: what happens meanwhile is charged to the second when it is back.
func TestALedgerThatIsAwayForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		k, _, stop := s.keeper()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		start := time.Now().Unix()
		go func() { ended <- k.Run(ctx, "test", 7) }()
		s.bind("before")
		s.bind("throughout")
		time.Sleep(65 * time.Second) // between two ticks
		synctest.Wait()
		s.want("before", fmt.Sprintf("0 run %d..open", start))
		if epoch, asOf := k.Position(); epoch != 8 || asOf != start+60-lag {
			t.Errorf("epoch %d, as of %d", epoch, asOf-start)
		}

		s.store.mu.Lock()
		s.store.away = errors.New("away")
		s.store.mu.Unlock()
		time.Sleep(10 * time.Minute)
		s.finish("before")
		s.bind("deleted")
		s.bind("finished")
		time.Sleep(20 * time.Minute)
		s.remove("deleted")
		s.finish("finished")
		time.Sleep(time.Second)
		s.remove("finished")
		s.remove("before")
		time.Sleep(30*time.Minute - time.Second)
		synctest.Wait()
		if _, asOf := k.Position(); asOf != start+60-lag {
			t.Errorf("as of %d while it is away", asOf-start)
		}
		s.store.mu.Lock()
		s.store.away = nil
		s.store.mu.Unlock()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		s.want("before", run(start, start+665, "containers"))
		s.want("deleted", run(start+665, start+1865, "deleted"))
		s.want("finished", run(start+665, start+1865, "containers"))
		s.want("throughout", fmt.Sprintf("0 run %d..open", start))
		if _, asOf := k.Position(); asOf < start+3665 {
			t.Errorf("as of %d", asOf-start)
		}
		for row := range s.store.Segments(ctx, ledger.Query{PodUID: "throughout"}) {
			if row.Through < start+3665 {
				t.Errorf("charged to %d", row.Through-start)
			}
		}
		if len(k.notes) != 0 || len(k.accounts) != 1 {
			t.Errorf("%d notes, %d accounts are kept", len(k.notes), len(k.accounts))
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		stop()
	})
}

// TestAReplicaThatStandsBy: it keeps nothing but who went lately, and what that is worth when it takes over.
func TestAReplicaThatStandsBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		first, _, stopFirst := s.keeper()
		second, _, stopSecond := s.keeper()
		ctx, kill := context.WithCancel(context.Background())
		ended := make(chan error, 2)
		go func() { ended <- first.Run(ctx, "first", 0) }()
		for i := range 300 {
			name := fmt.Sprintf("early-%d", i)
			s.bind(name)
			time.Sleep(10 * time.Second)
			s.remove(name)
		}
		synctest.Wait()
		if n := len(second.notes); n > standBy/10+1 || len(second.gone) != n {
			t.Errorf("it notes %d pods and %d that are gone after 3000 seconds of one in ten", n, len(second.gone))
		}
		s.bind("stays")
		s.bind("goes")
		bound := time.Now().Unix()
		time.Sleep(time.Minute)
		kill()
		<-ended
		stopFirst()
		time.Sleep(7 * time.Second)
		s.remove("goes") // nobody leads
		gone := time.Now().Unix()
		time.Sleep(8 * time.Second)

		before := len(s.store.rows)
		ctx, cancel := context.WithCancel(context.Background())
		go func() { ended <- second.Run(ctx, "second", 0) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		s.want("goes", run(bound, gone, "deleted"))
		s.want("stays", fmt.Sprintf("0 run %d..open", bound))
		if got := len(s.store.rows); got != before {
			t.Errorf("%d pods are on the books, %d were", got, before)
		}
		for i := range 300 {
			if got := s.store.of(fmt.Sprintf("early-%d", i)); len(got) != 1 {
				t.Errorf("early-%d is charged %q", i, got)
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		stopSecond()
	})
}

// TestFenced: Run ends when another leads.
func TestFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		k, _, stop := s.keeper()
		ended := make(chan error, 1)
		go func() { ended <- k.Run(context.Background(), "first", 0) }()
		time.Sleep(time.Minute)
		if _, err := s.store.Lead(context.Background(), "second", 0); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, ledger.ErrFenced) {
			t.Errorf("%v", err)
		}
		stop()
	})
}

// TestAPodThatIsRefused: all others are charged.
func TestAPodThatIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t)
		s.store.refused = "bad"
		k, _, stop := s.keeper()
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- k.Run(ctx, "test", 0) }()
		start := time.Now().Unix()
		for _, name := range []string{"a", "bad", "c"} {
			s.bind(name)
		}
		time.Sleep(10 * time.Minute)
		s.finish("a")
		s.finish("bad")
		time.Sleep(time.Minute)
		s.remove("bad")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		s.want("a", run(start, start+600, "containers"))
		s.want("bad")
		s.want("c", fmt.Sprintf("0 run %d..open", start))
		if len(k.refused) != 0 {
			t.Errorf("it is gone, and %v is still refused", k.refused)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		stop()
	})
}

// TestPodsThatEndedLongAgo: what may be rolled up by now is not recorded again; a ledger that is new has all that is there.
func TestPodsThatEndedLongAgo(t *testing.T) {
	for name, asOf := range map[string]int64{"a ledger that is new": 0, "one that was kept": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t)
				start := time.Now().Unix()
				s.bind("old")
				time.Sleep(time.Hour)
				s.finish("old")
				time.Sleep(time.Duration(ledger.MinRetention+60) * time.Second)
				if asOf != 0 {
					s.store.asOf = time.Now().Unix() - 15
				}
				k, _, stop := s.keeper()
				ctx, cancel := context.WithCancel(context.Background())
				ended := make(chan error, 1)
				go func() { ended <- k.Run(ctx, "test", 0) }()
				time.Sleep(time.Minute)
				synctest.Wait()
				if asOf == 0 {
					s.want("old", run(start, start+3600, "containers"))
				} else {
					s.want("old")
				}
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				stop()
			})
		})
	}
}

func TestATickBelowASecondIsRefused(t *testing.T) {
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	if _, err := NewKeeper(Options{Pods: factory, Tick: time.Millisecond}); err == nil {
		t.Error("a tick of a millisecond is accepted")
	}
}
