package steward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/queues"
)

// use is what a queue's own pods were charged: so many GPUs from when to when.
type use struct {
	queue    string
	gpus     int64
	from, to int64
}

// fakeStore is a ledger of uses.
type fakeStore struct {
	ledger.Store
	uses []use
	asOf int64
	err  error
	// read are the stretches of time that were asked for.
	read [][2]int64
}

func (s *fakeStore) Charged(_ context.Context, from, to int64) (map[string]int64, error) {
	s.read = append(s.read, [2]int64{from, to})
	out := map[string]int64{}
	for _, u := range s.uses {
		if n := min(u.to, to, s.asOf) - max(u.from, from); n > 0 {
			out[u.queue] += 1000 * u.gpus * n
		}
	}
	return out, s.err
}

// office is a steward with everything around it.
type office struct {
	t       *testing.T
	store   *fakeStore
	objects map[string]*v1alpha1.Queue
	// seen is what the informer has: objects as they were when it last looked.
	seen     map[string]*v1alpha1.Queue
	pods     cache.Indexer
	steward  *Steward
	recorder *events.FakeRecorder
	options  Options
	// refuse answers a request by method and path, 0 for the usual answer.
	refuse func(r *http.Request) int
	// asked are the requests about pods.
	asked []string
	// disruptions are the PodDisruptionBudgets.
	disruptions []policyv1.PodDisruptionBudget
	// writes counts statuses that were written.
	writes int
}

func newOffice(t *testing.T, all ...*v1alpha1.Queue) *office {
	t.Helper()
	o := &office{
		t: t, store: &fakeStore{}, objects: map[string]*v1alpha1.Queue{}, seen: map[string]*v1alpha1.Queue{},
		pods: cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{}), recorder: events.NewFakeRecorder(1000),
		refuse: func(*http.Request) int { return 0 },
	}
	for _, q := range all {
		o.objects[q.Name] = q
	}
	o.look()
	server := httptest.NewServer(o)
	t.Cleanup(server.Close)
	cfg := &rest.Config{Host: server.URL}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	o.options = Options{
		Client: client, Dynamic: objects, Recorder: o.recorder, Store: o.store, Schedulers: []string{"weft"},
		Queues: func() *queues.Set {
			var list []*v1alpha1.Queue
			for _, q := range o.seen {
				list = append(list, q)
			}
			return queues.NewSet(list, nil, nil)
		},
		Objects: func(name string) *v1alpha1.Queue { return o.seen[name] },
		Pods:    corelisters.NewPodLister(o.pods), Nodes: corelisters.NewNodeLister(cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})),
	}
	o.steward = New(o.options)
	return o
}

// look has the informer see what there is.
func (o *office) look() {
	clear(o.seen)
	for name, q := range o.objects {
		o.seen[name] = q.DeepCopy()
	}
}

// restart is another process, which knows what stands in the objects.
func (o *office) restart() {
	o.look()
	o.steward = New(o.options)
}

// ServeHTTP is the API server.
func (o *office) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	code := o.refuse(r)
	name, isQueue := strings.CutPrefix(r.URL.Path, "/apis/weft.sh/v1alpha1/queues/")
	var answer any = metav1.Status{Status: metav1.StatusSuccess}
	if isQueue && code == 0 {
		name = strings.TrimSuffix(name, "/status")
		var ops []struct {
			Op, Path string
			Value    json.RawMessage
		}
		if err := json.Unmarshal(body, &ops); err != nil {
			o.t.Errorf("%v: %s", err, body)
		}
		q := o.objects[name]
		if q == nil {
			code, ops = http.StatusNotFound, nil
		}
		for _, op := range ops {
			if code != 0 {
				break
			}
			found := "none"
			switch op.Path {
			case "/metadata/uid":
				found = fmt.Sprintf("%q", q.UID)
			case "/metadata/resourceVersion":
				found = fmt.Sprintf("%q", q.ResourceVersion)
			case "/status/budget/epoch":
				if q.Status.Budget != nil {
					found = fmt.Sprint(q.Status.Budget.Epoch)
				}
			case "/status":
				q.Status = v1alpha1.QueueStatus{}
				if err := json.Unmarshal(op.Value, &q.Status); err != nil {
					o.t.Error(err)
				}
				o.writes++
				q.ResourceVersion = fmt.Sprint("written", o.writes)
				answer = q
				continue
			}
			if found != string(op.Value) {
				code = http.StatusUnprocessableEntity
			}
		}
	}
	if strings.HasSuffix(r.URL.Path, "/poddisruptionbudgets") {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(policyv1.PodDisruptionBudgetList{
			TypeMeta: metav1.TypeMeta{Kind: "PodDisruptionBudgetList", APIVersion: "policy/v1"}, Items: o.disruptions,
		})
		return
	}
	if !isQueue {
		asked := r.Method + " " + strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/default/pods/")
		if strings.Contains(string(body), `"dryRun"`) {
			asked += " dry"
		}
		o.asked = append(o.asked, asked)
		var patch metav1.PartialObjectMetadata
		if err := json.Unmarshal(body, &patch); r.Method == http.MethodPatch && code == 0 && err == nil {
			obj, _, _ := o.pods.GetByKey("default/" + strings.TrimPrefix(r.URL.Path, "/api/v1/namespaces/default/pods/"))
			pod := obj.(*v1.Pod).DeepCopy()
			if pod.Annotations == nil {
				pod.Annotations = map[string]string{}
			}
			maps.Copy(pod.Annotations, patch.Annotations)
			_ = o.pods.Update(pod)
			answer = pod
		}
	}
	if code != 0 {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		reason := map[int]metav1.StatusReason{
			404: metav1.StatusReasonNotFound, 409: metav1.StatusReasonConflict, 422: metav1.StatusReasonInvalid,
			429: metav1.StatusReasonTooManyRequests, 500: metav1.StatusReasonInternalError,
		}[code]
		_ = json.NewEncoder(w).Encode(metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason,
		})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	data, err := json.Marshal(answer)
	if err != nil {
		o.t.Error(err)
	}
	// The dynamic client reads kinds.
	var m map[string]any
	_ = json.Unmarshal(data, &m)
	m["apiVersion"], m["kind"] = "v1", "Pod"
	if isQueue {
		m["apiVersion"], m["kind"] = "weft.sh/v1alpha1", "Queue"
	}
	_ = json.NewEncoder(w).Encode(m)
}

// pass has the steward look at the moment, and fails when it cannot.
func (o *office) pass(asOf int64) {
	o.t.Helper()
	if err := o.tryPass(asOf); err != nil {
		o.t.Fatal(err)
	}
	o.look()
}

func (o *office) tryPass(asOf int64) error {
	o.store.asOf = asOf
	return o.steward.Pass(o.t.Context(), 3, asOf)
}

// told are the events since they were last asked for.
func (o *office) told() (out []string) {
	for {
		select {
		case e := <-o.recorder.Events:
			out = append(out, e)
		default:
			return out
		}
	}
}

// takeAsked are the requests about pods since they were last asked for.
func (o *office) takeAsked() []string {
	out := o.asked
	o.asked = nil
	return out
}

func (o *office) budget(queue string) v1alpha1.BudgetStatus {
	o.t.Helper()
	b := o.objects[queue].Status.Budget
	if b == nil {
		o.t.Fatalf("queue %s has no budget in its status", queue)
	}
	return *b
}

func (o *office) condition(queue, kind string) string {
	c := find(o.objects[queue].Status, kind)
	return fmt.Sprintf("%s %s", c.Status, c.Reason)
}

func queue(name, parent string, change ...func(*v1alpha1.QueueSpec)) *v1alpha1.Queue {
	q := &v1alpha1.Queue{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name), Generation: 1}}
	q.Spec.Parent, q.Spec.Weight = parent, 1
	for _, f := range change {
		f(&q.Spec)
	}
	return q
}

func budget(hours string, period v1alpha1.Period, change ...func(*v1alpha1.Budget)) func(*v1alpha1.QueueSpec) {
	b := &v1alpha1.Budget{GPUHours: resource.MustParse(hours), Period: period, Enforcement: v1alpha1.EnforceHold}
	for _, f := range change {
		f(b)
	}
	return func(s *v1alpha1.QueueSpec) { s.Budget = b }
}

func drains(grace int32) func(*v1alpha1.Budget) {
	return func(b *v1alpha1.Budget) { b.Enforcement, b.DrainGraceSeconds = v1alpha1.EnforceDrain, &grace }
}

func gpuLimit(n string) func(*v1alpha1.QueueSpec) {
	q := resource.MustParse(n)
	return func(s *v1alpha1.QueueSpec) { s.GPUs.Limit = &q }
}

// pod is a pod with GPUs of the queue: one that runs since start, or that waits when it is 0.
func pod(name, queue string, gpus int64, start int64, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{podspec.LabelQueue: queue}},
		Spec: v1.PodSpec{SchedulerName: "weft", Containers: []v1.Container{{Name: "main", Resources: v1.ResourceRequirements{
			Limits: v1.ResourceList{podspec.ResourceGPU: *resource.NewQuantity(gpus, resource.DecimalSI)},
		}}}},
	}
	if start != 0 {
		p.Spec.NodeName = "n"
		p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: moment(start)}}
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func (o *office) add(pods ...*v1.Pod) {
	for _, p := range pods {
		if err := o.pods.Add(p); err != nil {
			o.t.Fatal(err)
		}
	}
}

const (
	hour = int64(3600)
	day  = 24 * hour
)

// at is a moment in UTC.
func at(text string) int64 {
	t, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		panic(err)
	}
	return t.Unix()
}

func TestAStatusSaysWhatTheLedgerHas(t *testing.T) {
	now := at("2026-11-10 12:00:00")
	o := newOffice(t, queue("org", "", budget("100", v1alpha1.PeriodMonth)), queue("team", "org", gpuLimit("4")))
	o.store.uses = []use{{"team", 2, now - 10*hour, now + day}, {"org", 1, now - 5*hour, now - 4*hour}, {"other", 9, now - day, now}}
	o.add(
		pod("runs", "team", 2, now-10*hour, func(p *v1.Pod) { p.Annotations = map[string]string{podspec.AnnotationRuntime: "15h"} }),
		pod("waits", "team", 3, 0),
		pod("held", "team", 1, 0, unscheduled("OverBudget")),
		pod("gated", "team", 1, 0, func(p *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "later"}} }),
		pod("full", "team", 1, 0, unscheduled(v1.PodReasonUnschedulable)),
		pod("foreign", "team", 1, 0, func(p *v1.Pod) { p.Spec.SchedulerName = "default-scheduler" }),
		pod("done", "team", 1, 0, func(p *v1.Pod) { p.Status.Phase = v1.PodFailed }),
	)
	o.pass(now)
	s := o.objects["org"].Status
	got := map[string]string{
		"running": s.GPUs.Running.String(), "borrowed": s.GPUs.Borrowed.String(), "pending": s.GPUs.Pending.String(), "eligible": s.GPUs.Eligible.String(),
		"pods": fmt.Sprint(s.PendingPods), "used": s.Budget.Used, "held": s.Budget.Held, "limit": s.Budget.Limit, "left": s.Budget.Left,
		"burn": s.Budget.BurnPerDay, "epoch": fmt.Sprint(s.Budget.Epoch), "from": s.Budget.PeriodStart.UTC().Format(time.RFC3339),
		"to": s.Budget.PeriodEnd.UTC().Format(time.RFC3339), "exact": fmt.Sprint(s.Budget.UsedMilliGPUSeconds),
		"valid": o.condition("org", "Valid"), "alert": o.condition("org", "BudgetAlert"), "exhausted": o.condition("org", "Exhausted"),
	}
	want := map[string]string{
		"running": "2", "borrowed": "2", "pending": "6", "eligible": "4", "pods": "4", "used": "21", "held": "10", "limit": "100", "left": "69",
		"burn": "21", "epoch": "3", "from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z", "exact": "75600000",
		"valid": "True Valid", "alert": "True BurnRate", "exhausted": "False Remaining",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status of org (-want +got):\n%s", diff)
	}
	if team := o.objects["team"].Status; team.Budget != nil || len(team.Conditions) != 1 || team.ObservedGeneration != 1 {
		t.Errorf("team has no budget: %+v", team)
	}
	for want, lines := range map[string]bool{
		`weft_queue_gpus{queue="org",state="running"} 2`:                             true,
		`weft_queue_gpus{queue="team",state="headroom"} 2`:                           true,
		`weft_queue_gpus{queue="team",state="limit"} 4`:                              true,
		`weft_queue_gpus{queue="org",state="limit"}`:                                 false,
		`weft_queue_gpus{queue="org",state="headroom"}`:                              false,
		`weft_queue_eligible_pending_gpus{class="",queue="org"} 4`:                   true,
		`weft_queue_budget_gpu_hours{queue="org",state="left"} 69`:                   true,
		`weft_queue_budget_gpu_hours{queue="team",`:                                  false,
		`weft_queue_budget_burn_gpu_hours_per_day{queue="org"} 21`:                   true,
		`weft_queue_budget_used_ratio{queue="org"} 0.31`:                             true,
		`weft_queue_budget_exhausted_timestamp_seconds{queue="org"} 1.794637029e+09`: true,
	} {
		if text := metricsText(t); strings.Contains(text, want) != lines {
			t.Errorf("metrics have %s: %v, want %v\n%s", want, !lines, lines, text)
		}
	}
	delete(o.objects, "team") // with a pod that runs
	o.look()
	o.pass(now + 15)
	if text := metricsText(t); strings.Contains(text, `"team"`) {
		t.Errorf("the queue is gone:\n%s", text)
	}
}

func unscheduled(reason string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: reason}}
	}
}

// TestStatusesAreWrittenWhenTheySaySomethingNew: the passage of time alone is written once a minute.
func TestStatusesAreWrittenWhenTheySaySomethingNew(t *testing.T) {
	now := at("2026-11-10 12:00:00")
	o := newOffice(t, queue("team", "", budget("100", v1alpha1.PeriodMonth)))
	o.store.uses = []use{{"team", 1, now - hour, now + day}}
	o.add(pod("runs", "team", 1, now-hour))
	var writes []int
	for i := range int64(9) {
		if i == 6 {
			o.add(pod("another", "team", 1, now+80))
		}
		before := o.writes
		if err := o.tryPass(now + 15*i); err != nil {
			t.Fatal(err)
		}
		if i != 1 { // the informer is behind
			o.look()
		}
		writes = append(writes, o.writes-before)
	}
	if diff := cmp.Diff([]int{1, 0, 0, 0, 1, 0, 1, 0, 0}, writes); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
	o.restart()
	o.pass(now + 15*8)
	if o.writes != 3 {
		t.Error("a new process writes what stands there already")
	}
	// The queue is deleted and made anew: what is known of the old one is not the new one's.
	again := queue("team", "", budget("100", v1alpha1.PeriodMonth))
	again.UID = "another"
	o.objects["team"] = again
	if err := o.tryPass(now + 200); err == nil || again.Status.Budget != nil {
		t.Errorf("the status of the old queue is written to the new one: %v", err)
	}
	o.look()
	o.pass(now + 215)
	if again.Status.Budget == nil {
		t.Error("the new queue has no status")
	}
	o.refuse = func(*http.Request) int { return http.StatusInternalServerError }
	if err := o.tryPass(now + 500); err == nil || !strings.Contains(err.Error(), "status of queue team") {
		t.Errorf("the API server refuses: %v", err)
	}
	o.store.err = errors.New("away")
	if err := o.tryPass(now + 515); err == nil || !strings.Contains(err.Error(), "what queue team was charged: away") {
		t.Errorf("the ledger is away: %v", err)
	}
}

func TestAlertsAreRaisedOnceEach(t *testing.T) {
	start := at("2026-11-01 00:00:00")
	o := newOffice(t, queue("team", "", budget("10", v1alpha1.PeriodMonth)))
	used := func(hours string) {
		h, _ := time.ParseDuration(hours + "h")
		o.store.uses = []use{{"team", 1, start, start + int64(h/time.Second)}}
	}
	alerts := func() (out []string) {
		for _, e := range o.told() {
			out = append(out, strings.Join(strings.Fields(e)[:3], " "))
		}
		return out
	}
	now := start + 3*day
	step := func(name, hours string, want ...string) {
		t.Helper()
		now += readAgain // what is written into the past here is read by then
		used(hours)
		o.pass(now)
		if diff := cmp.Diff(want, alerts()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	step("nothing", "1")
	step("the first level", "7", "Warning BudgetAlert 70")
	step("still there", "7.1")
	step("a level higher", "8.5", "Warning BudgetAlert 85")
	step("and no more of it", "8.6")
	step("back", "7.5")
	step("and up again", "8.7")
	step("levels at once", "9.9", "Warning BudgetAlert 95")
	o.restart()
	step("a new process knows what was said", "9.9")
	step("used up", "10", "Warning BudgetExhausted 10")
	step("still", "10.5")
	o.restart()
	step("still, after a restart", "10.5")
	if c := find(o.objects["team"].Status, v1alpha1.ConditionExhausted); c.LastTransitionTime.Unix() != start+3*day+readAgain*10 {
		t.Errorf("used up since %v", c.LastTransitionTime)
	}
	o.objects["team"].Spec.Budget.GPUHours = resource.MustParse("100")
	o.look()
	step("refilled", "10.5")
	if got := o.condition("team", "Exhausted") + ", " + o.condition("team", "BudgetAlert"); got != "False Remaining, False Enough" {
		t.Errorf("refilled: %s", got)
	}
	o.objects["team"].Spec.Budget.GPUHours = resource.MustParse("10")
	o.look()
	step("used up again", "10.5", "Warning BudgetExhausted 10.5")
	now = at("2026-12-03 00:00:00")
	step("a new period", "1")
	o.store.uses = nil
	start = at("2026-12-01 00:00:00")
	step("a new period has alerts of its own", "9", "Warning BudgetAlert 85")

	// A queue that becomes invalid, and one below it.
	o.objects["below"], o.objects["other"] = queue("below", "team"), queue("other", "")
	o.objects["team"].Spec.Parent = "nowhere"
	o.look()
	now += 15
	o.pass(now)
	o.pass(now + 15)
	events := o.told()
	slices.Sort(events)
	if len(events) != 2 || !strings.HasPrefix(events[0], "Warning QueueInvalid ") || !strings.Contains(events[0], "nowhere") {
		t.Errorf("told %q: want that team and below are not valid", events)
	}
	if got := o.condition("below", "Valid") + o.condition("other", "Valid"); got != "False InvalidTrue Valid" {
		t.Errorf("valid: %s", got)
	}
}

// TestBurnRate: when the budget lasts no longer than its period does is told once, and the percents beside it.
func TestBurnRate(t *testing.T) {
	start := at("2026-11-01 00:00:00")
	o := newOffice(t, queue("team", "", budget("100", v1alpha1.PeriodMonth)))
	o.store.uses = []use{{"team", 1, start, start + 5*day}}
	o.pass(start + day)
	if got := o.told(); len(got) != 1 || !strings.HasPrefix(got[0], "Warning BudgetAlert at 24 GPU-hours a day the budget is used up at 2026-11-05T04:00:00Z") {
		t.Errorf("told %q", got)
	}
	o.pass(start + day + 15)
	if got := o.told(); got != nil {
		t.Errorf("told again %q", got)
	}
	o.pass(start + 70*hour)
	if got := o.told(); len(got) != 1 || !strings.HasPrefix(got[0], "Warning BudgetAlert 70 %") {
		t.Errorf("told %q", got)
	}
	if b := o.budget("team"); b.ExhaustedAt == nil || b.DrainAt != nil {
		t.Errorf("%+v", b)
	}
}
