package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
)

// historian writes down what happens to pods, as a watch that nobody interrupts sees it.
type historian struct {
	mu   sync.Mutex
	pods map[types.UID]*history
}

// history is what happened to a pod.
type history struct {
	name     string
	milliGPU int64
	// told are the values of weft.sh/checkpoint-by.
	told []string
	// bound, finished and gone are moments, 0 for what did not happen. Finished is what its status says.
	bound, finished, gone int64
}

func (c *cluster) history() *historian {
	c.t.Helper()
	h := &historian{pods: map[types.UID]*history{}}
	ctx, cancel := context.WithCancel(context.Background())
	w, err := c.client.CoreV1().Pods(metav1.NamespaceDefault).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok {
				h.note(p, e.Type)
			}
		}
	}()
	c.t.Cleanup(func() {
		cancel()
		w.Stop()
		<-done
	})
	return h
}

func (h *historian) note(p *corev1.Pod, what watch.EventType) {
	h.mu.Lock()
	defer h.mu.Unlock()
	one := h.pods[p.UID]
	if one == nil {
		gpus := p.Spec.Containers[0].Resources.Limits[podspec.ResourceGPU]
		one = &history{name: p.Name, milliGPU: gpus.MilliValue()}
		h.pods[p.UID] = one
	}
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodScheduled && cond.Status == corev1.ConditionTrue {
			one.bound = cond.LastTransitionTime.Unix()
		}
	}
	for _, s := range p.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil {
			one.finished = t.FinishedAt.Unix()
		}
	}
	if by := p.Annotations[podspec.AnnotationCheckpointBy]; by != "" && (len(one.told) == 0 || one.told[len(one.told)-1] != by) {
		one.told = append(one.told, by)
	}
	if what == watch.Deleted {
		one.gone = time.Now().Unix()
	}
}

// of is the history of the only pod that ever had the name.
func (h *historian) of(name string) history {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, one := range h.pods {
		if one.name == name {
			return *one
		}
	}
	return history{}
}

// finish has the pod end now, as a kubelet would say it.
func (c *cluster) finish(name string) {
	c.t.Helper()
	patch := fmt.Sprintf(`{"status":{"phase":"Succeeded","containerStatuses":[{"name":"main","state":{"running":null,`+
		`"terminated":{"exitCode":0,"startedAt":%q,"finishedAt":%q}}}]}}`, c.pod(name).Status.StartTime.UTC().Format(time.RFC3339),
		time.Now().UTC().Format(time.RFC3339))
	_, err := c.client.CoreV1().Pods(metav1.NamespaceDefault).Patch(c.t.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	if err != nil {
		c.t.Fatal(err)
	}
}

// runs waits until the pod runs.
func (c *cluster) runs(name string) {
	c.t.Helper()
	eventually(c.t, time.Minute, func() string {
		if p := c.pod(name); p.Status.Phase != corev1.PodRunning {
			return fmt.Sprintf("%s is %s: %s", name, p.Status.Phase, condition(p))
		}
		return ""
	})
}

func (c *cluster) queueStatus(name string) v1alpha1.QueueStatus {
	c.t.Helper()
	u, err := dynamicClient(c.t, c.cfg).Resource(v1alpha1.Queues).Get(c.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return typedObject[v1alpha1.Queue](c.t, u).Status
}

// wantEvent waits for an event about the object.
func (c *cluster) wantEvent(kind, name, reason, note string) {
	c.t.Helper()
	eventually(c.t, time.Minute, func() string {
		list, err := c.client.EventsV1().Events(metav1.NamespaceDefault).List(c.t.Context(), metav1.ListOptions{})
		if err != nil {
			c.t.Fatal(err)
		}
		for _, e := range list.Items {
			if e.Regarding.Kind == kind && e.Regarding.Name == name && e.Reason == reason && strings.Contains(e.Note, note) {
				return ""
			}
		}
		return fmt.Sprintf("no event %s about %s %s that says %q", reason, kind, name, note)
	})
}

func openLedger(t *testing.T, dsn string) *ledger.SQL {
	t.Helper()
	store, err := ledger.Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// exact checks that a pod's rows are what its history says.
func exact(t *testing.T, rows []ledger.Segment, h history) {
	t.Helper()
	if len(rows) == 0 {
		t.Errorf("%s is not in the ledger", h.name)
		return
	}
	sum, last := int64(0), rows[len(rows)-1]
	for i, s := range rows {
		sum += s.MilliGPUSeconds()
		if i > 0 && s.Start != rows[i-1].End {
			t.Errorf("%s: a gap before segment %d: %+v", h.name, i, rows)
		}
	}
	if last.End != h.finished || last.Estimated || last.Closed != "containers" || sum != h.milliGPU*(h.finished-h.bound) || rows[0].Start != h.bound {
		t.Errorf("%s ran from %d to %d, and is charged %d milli-GPU-seconds by %+v", h.name, h.bound, h.finished, sum, rows)
	}
}

func TestLedgerOnACluster(t *testing.T) {
	c := startCluster(t, "h100=3")
	h := c.history()
	dsn := filepath.Join(t.TempDir(), "ledger.db")
	args := []string{"--ledger=" + dsn, "--ledger-tick=1s", "--ledger-labels=team"}
	ctl := startController(t, c.cp, args...)
	store := openLedger(t, dsn)
	c.startScheduler()
	past := func() { t.Helper(); advances(t, store, time.Now().Unix()) }

	t.Run("what ran is charged by the pods' own times", func(t *testing.T) {
		c.queue("batch", "budget: {gpuHours: 100, period: None}")
		c.create(charged("short", "batch", "2h", func(p *corev1.Pod) {
			p.Labels["team"], p.Labels[podspec.LabelUser] = "vision", "ada"
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{podspec.ResourceGPU: *quantity(2)}
		}))
		c.runs("short")
		past()
		eventually(t, time.Minute, func() string {
			s := c.queueStatus("batch")
			if s.GPUs.Running.String() != "2" || s.Budget == nil || s.Budget.Limit != "100" || !strings.HasPrefix(s.Budget.Held, "3.99") && s.Budget.Held != "4" {
				return fmt.Sprintf("status of batch: %+v", s)
			}
			return ""
		})
		c.finish("short")
		past()
		eventually(t, 2*time.Minute, func() string {
			if s := c.queueStatus("batch"); s.GPUs.Running.String() != "0" || s.Budget.Held != "0" {
				return fmt.Sprintf("status of batch: %+v", s)
			}
			return ""
		})
		rows := segmentsOf(t, store)["short"]
		exact(t, rows, h.of("short"))
		last := rows[len(rows)-1]
		if last.Queue != "batch" || last.User != "ada" || last.Labels["team"] != "vision" || last.Product == "" || last.Node == "" {
			t.Errorf("%+v", last)
		}
		want := fmt.Sprintf(`{"charged":{"batch":%d}}`, last.MilliGPU*(last.End-rows[0].Start))
		if status, body := ctl.get("/ledger/v1/charged", ctl.token); status != http.StatusOK || strings.TrimSpace(body) != want {
			t.Errorf("over HTTP: %d %s, want %s", status, body, want)
		}
		for _, token := range []string{"", "nobody's"} {
			if status, body := ctl.get("/ledger/v1/charged", token); status != http.StatusForbidden && status != http.StatusUnauthorized {
				t.Errorf("read by anybody: %d %s", status, body)
			}
		}
		c.delete("short")
	})
	t.Run("a budget that runs out is told, and its gang leaves whole", func(t *testing.T) {
		c.queue("drains", "budget: {gpuHours: 334m, period: None, enforcement: Drain, drainGraceSeconds: 6}") // 1202 seconds of a GPU
		c.group("train", 2, nil)
		for i := range 2 {
			c.create(charged(fmt.Sprint("train-", i), "drains", "10m", memberOf("train")))
		}
		c.started("train", 2, time.Minute)
		// 36 seconds of a GPU: who keeps to his time uses up only a budget that is made smaller.
		c.queue("drains", "budget: {gpuHours: 10m, period: None, enforcement: Drain, drainGraceSeconds: 6}")
		c.create(charged("after", "drains", "18s"))
		c.heldBack("after", "OverBudget")
		eventually(t, time.Minute, func() string { // pods that are done or wait
			if s := c.queueStatus("drains"); s.PendingPods != 1 || s.GPUs.Pending.String() != "1" || s.GPUs.Eligible.String() != "0" {
				return fmt.Sprintf("status of drains: %+v", s)
			}
			return ""
		})
		c.wantEvent("Queue", "drains", "BudgetAlert", "% of the budget of 0.01 GPU-hours is used or held")
		c.wantEvent("Queue", "drains", "BudgetExhausted", "of 0.01 GPU-hours are used")
		c.wantEvent("Pod", "train-1", "BudgetDrain", "write a checkpoint before")
		eventually(t, time.Minute, func() string {
			for i := range 2 {
				if h.of(fmt.Sprint("train-", i)).gone == 0 {
					return fmt.Sprintf("train-%d is there", i)
				}
			}
			return ""
		})
		c.wantEvent("Pod", "train-0", "BudgetDrained", "the budget of queue drains is used up")
		a, b := h.of("train-0"), h.of("train-1")
		if len(a.told) != 1 || len(b.told) != 1 || a.told[0] != b.told[0] {
			t.Fatalf("they were told to leave at %v and %v: want once, the same", a.told, b.told)
		}
		at, err := time.Parse(time.RFC3339, a.told[0])
		if err != nil {
			t.Fatal(err)
		}
		if a.gone < at.Unix() || b.gone < at.Unix() {
			t.Errorf("they left at %d and %d, before %d", a.gone, b.gone, at.Unix())
		}
		s := c.queueStatus("drains")
		for _, cond := range s.Conditions {
			if want := map[string]bool{"Valid": true, "BudgetAlert": true, "Exhausted": true}[cond.Type]; want != (cond.Status == metav1.ConditionTrue) {
				t.Errorf("condition %+v", cond)
			}
		}
		c.heldBack("after", "BudgetExhausted")
		c.delete("after")
	})
	t.Run("the scheduler decides while no controller runs", func(t *testing.T) {
		c.queue("hours", "budget: {gpuHours: 3, period: None}")
		c.create(charged("first", "hours", "2h"))
		c.runs("first")
		past()
		ctl.end(syscall.SIGKILL)
		down := time.Now().Unix()
		c.create(charged("second", "hours", "2h"))
		c.heldBack("second", "OverBudget", "2 are needed")
		c.create(charged("third", "hours", "30m"))
		c.runs("third")
		c.finish("third")
		ctl = startController(t, c.cp, args...)
		past()
		eventually(t, time.Minute, func() string {
			if rows := segmentsOf(t, store)["third"]; len(rows) == 0 || rows[len(rows)-1].End == 0 {
				return fmt.Sprintf("third is charged %+v", rows)
			}
			return ""
		})
		exact(t, segmentsOf(t, store)["third"], h.of("third"))
		for _, s := range segmentsOf(t, store)["first"] {
			if s.End == 0 && s.Through < down {
				t.Errorf("first is charged to %d, the controller is back since %d", s.Through, down)
			}
		}
	})
	ctl.end(syscall.SIGTERM)
	if _, err := store.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestALedgerWhoseKeeperIsKilled: pods come and go while the controller is killed ten times. The ledger has what happened: to the
// milli-GPU-second for every pod of which the end is written down, and for one that was deleted when that was, as near as
// somebody looked.
func TestALedgerWhoseKeeperIsKilled(t *testing.T) {
	const kills, tick = 10, int64(2)
	c := startCluster(t, "h100=4")
	h := c.history()
	dsn := filepath.Join(t.TempDir(), "ledger.db")
	args := []string{"--ledger=" + dsn, fmt.Sprintf("--ledger-tick=%ds", tick)}
	ctl := startController(t, c.cp, args...)
	store := openLedger(t, dsn)
	c.startScheduler()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))

	created := 0
	var running []string
	churn := func(n int) {
		for range n {
			name := fmt.Sprintf("pod-%03d", created)
			created++
			c.create(playground.Pod{Name: name, GPUs: int64(1 + r.IntN(2))}.Object())
			running = append(running, name)
			if len(running) < 8 {
				continue
			}
			i := r.IntN(len(running))
			name, running = running[i], append(running[:i:i], running[i+1:]...)
			c.runs(name)
			if r.IntN(2) == 0 {
				c.finish(name)
			} else {
				c.delete(name)
			}
		}
	}
	type outage struct{ from, to int64 }
	var outages []outage
	for range kills {
		churn(1 + r.IntN(8))
		if r.IntN(2) == 0 { // all of it is on the books; otherwise nobody knows
			advances(t, store, time.Now().Unix())
		}
		down := time.Now().Unix()
		ctl.end(syscall.SIGKILL)
		churn(1 + r.IntN(4))
		ctl = startController(t, c.cp, args...)
		asOf, err := store.AsOf(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		outages = append(outages, outage{min(down, asOf), advances(t, store, asOf)})
	}
	for _, name := range running {
		c.runs(name)
		c.finish(name)
	}
	advances(t, store, time.Now().Unix()+2*tick)
	ctl.end(syscall.SIGTERM)

	h.mu.Lock()
	defer h.mu.Unlock()
	rows := segmentsOf(t, store)
	counts := map[string]int{}
	for _, one := range h.pods {
		if one.finished != 0 {
			exact(t, rows[one.name], *one)
			counts["finished"]++
			continue
		}
		// It was deleted while it ran. Where that was not seen it is known as well as somebody looked.
		near, within := tick+1, false
		for _, o := range outages {
			if one.gone >= o.from-tick && one.gone <= o.to+tick {
				near = max(near, o.to-o.from+2*tick)
				within = within || one.bound >= o.from-2*tick
			}
		}
		mine := rows[one.name]
		if len(mine) == 0 {
			if !within {
				t.Errorf("%s is not in the ledger: %+v, outages %v", one.name, *one, outages)
			}
			counts["unseen"]++
			continue
		}
		last := mine[len(mine)-1]
		if off := last.End - one.gone; last.End == 0 || off > near || -off > near || mine[0].Start != one.bound {
			t.Errorf("%s: %+v is charged %+v, outages %v", one.name, *one, mine, outages)
		}
		counts[last.Closed]++
	}
	t.Logf("%v", counts)
	if counts["finished"] < kills || counts["deleted"] == 0 {
		t.Errorf("the test does not test what it says: %v", counts)
	}
	if _, err := store.Verify(t.Context()); err != nil {
		t.Error(err)
	}
}
