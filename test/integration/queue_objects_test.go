package integration

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"sigs.k8s.io/yaml"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/queues"
	"weft.sh/weft/pkg/quota"
)

// weftObject is a Queue or GPUClass as somebody would write it.
func weftObject(t *testing.T, kind, name, spec string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{}}
	if err := yaml.Unmarshal([]byte("spec:\n  "+strings.ReplaceAll(spec, "\n", "\n  ")), &u.Object); err != nil {
		t.Fatal(err)
	}
	if u.Object["spec"] == nil {
		u.Object["spec"] = map[string]any{}
	}
	u.SetAPIVersion(v1alpha1.SchemeGroupVersion.String())
	u.SetKind(kind)
	u.SetName(name)
	return u
}

// typedObject is the object as the typed client would read it.
func typedObject[T any](t *testing.T, u *unstructured.Unstructured) *T {
	t.Helper()
	out := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out); err != nil {
		t.Fatalf("admitted, but nobody can read it: %v", err)
	}
	return out
}

func TestQueueObjects(t *testing.T) {
	for _, release := range manifestReleases {
		t.Run(release.name, func(t *testing.T) {
			cp := startControlPlane(t, playground.ControlPlaneOptions{APIServerArgs: release.args})
			if err := playground.Apply(t.Context(), cp.AdminConfig(), manifestObjects(t)); err != nil {
				t.Fatal(err)
			}
			t.Run("queues", func(t *testing.T) { testQueues(t, cp) })
			t.Run("classes", func(t *testing.T) { testClasses(t, cp) })
			t.Run("a status keeps what the scheduler reads", func(t *testing.T) { testQueueStatus(t, cp) })
			t.Run("labels of pods", func(t *testing.T) { testQueueLabels(t, cp) })
			t.Run("runtimes of pods", func(t *testing.T) { testRuntimes(t, cp) })
			t.Run("queues that leave", func(t *testing.T) { testQueueLeaves(t, cp) })
			t.Run("policies compile against the types", func(t *testing.T) { testPolicyTypes(t, cp) })
			t.Run("rights of people", func(t *testing.T) { testQueueRights(t, cp) })
		})
	}
}

func testQueues(t *testing.T, cp *playground.ControlPlane) {
	const (
		wantGPUs  = "want 0 or more GPUs in steps of a thousandth, such as 8 or 500m"
		wantHours = "want 0 or more GPU-hours, such as 1000 or 0.5"
		wantTime  = "want a duration of more than 0, such as 90m or 6h"
	)
	client := dynamicClient(t, cp.AdminConfig()).Resource(v1alpha1.Queues)
	for name, c := range map[string]struct {
		name, spec string
		// refused is contained in what the API server says; empty for a queue that is admitted, which then has to be one that can be
		// read, but for problem.
		refused, problem string
	}{
		"nothing":                           {spec: "{}"},
		"a number":                          {spec: "gpus: {guaranteed: 4, limit: 8}"},
		"a part of a GPU":                   {spec: `gpus: {guaranteed: 500m, limit: "1.5"}`},
		"as a program writes it":            {spec: "gpus: {guaranteed: 500m, limit: 1k}\nbudget: {gpuHours: 2M}"},
		"negative GPUs":                     {spec: "gpus: {limit: -1}", refused: "spec.gpus.limit: Invalid value: -1: " + wantGPUs},
		"negative guaranteed GPUs":          {spec: `gpus: {guaranteed: "-500m"}`, refused: "spec.gpus.guaranteed: Invalid value: " + wantGPUs},
		"less than a thousandth":            {spec: `gpus: {limit: "0.0005"}`, refused: wantGPUs},
		"GPUs in micros":                    {spec: `gpus: {limit: "500u"}`, refused: wantGPUs},
		"an amount that takes long to read": {spec: `gpus: {limit: "1e99999999"}`, refused: wantGPUs},
		"a word for an amount":              {spec: `gpus: {limit: many}`, refused: "spec.gpus.limit"},
		"a limit below the guarantee":       {spec: "gpus: {guaranteed: 4, limit: 3999m}", refused: "spec.gpus: Invalid value: guaranteed is more than limit"},
		"a limit that is the guarantee":     {spec: "gpus: {guaranteed: 4, limit: 4000m}"},
		"itself as parent":                  {name: "loop", spec: "parent: loop", refused: "spec.parent is the queue itself: want another queue, or none"},
		"another as parent":                 {spec: "parent: no-such-queue"},
		"a name too long for a label":       {name: strings.Repeat("a", 64), spec: "{}", refused: "a pod names its queue in a label: want a name of at most 63 characters"},
		"the longest name":                  {name: strings.Repeat("a", 63), spec: "{}"},
		"no weight":                         {spec: "weight: 0", refused: "spec.weight: Invalid value: 0"},
		"a negative weight":                 {spec: "weight: -2", refused: "spec.weight: Invalid value: -2"},
		"a huge weight":                     {spec: "weight: 1000001", refused: "spec.weight: Invalid value: 1000001"},
		"a field that is misspelt":          {spec: "gpu: {limit: 1}", refused: `unknown field "spec.gpu"`},

		"a window":                          {spec: `windows: [{days: [Mon, Fri], from: "22:00", to: "06:00", timeZone: Europe/Berlin, gpus: {guaranteed: 8}}]`},
		"a window all day":                  {spec: `windows: [{from: "00:00", to: "00:00", gpus: {limit: 0}}]`},
		"a window at 24:00":                 {spec: `windows: [{from: "24:00", to: "06:00", gpus: {limit: 1}}]`, refused: "spec.windows[0].from"},
		"a window without an end":           {spec: `windows: [{from: "22:00", gpus: {limit: 1}}]`, refused: "spec.windows[0].to: Required value"},
		"a window on no day there is":       {spec: `windows: [{days: [Monday], from: "22:00", to: "06:00", gpus: {limit: 1}}]`, refused: `spec.windows[0].days[0]: Unsupported value: "Monday"`},
		"a window on one day twice":         {spec: `windows: [{days: [Mon, Mon], from: "22:00", to: "06:00", gpus: {limit: 1}}]`, refused: "spec.windows[0].days[1]: Duplicate value"},
		"a window in a zone of bad form":    {spec: `windows: [{from: "22:00", to: "06:00", timeZone: "Europe Berlin", gpus: {limit: 1}}]`, refused: "spec.windows[0].timeZone"},
		"a window in everybody's own zone":  {spec: `windows: [{from: "22:00", to: "06:00", timeZone: Local, gpus: {limit: 1}}]`, refused: "want the IANA name of a time zone, such as Europe/Berlin"},
		"a window in a zone there is not":   {spec: `windows: [{from: "22:00", to: "06:00", timeZone: Europe/Atlantis, gpus: {limit: 1}}]`, problem: `spec.windows[0].timeZone is "Europe/Atlantis": want the IANA name of a time zone, such as Europe/Berlin`},
		"a window that guarantees too much": {spec: `windows: [{from: "22:00", to: "06:00", gpus: {guaranteed: 4, limit: 2}}]`, problem: `spec.windows[0].gpus.guaranteed is "4": want at most the limit, which is 2`},
		"a window of negative GPUs":         {spec: `windows: [{from: "22:00", to: "06:00", gpus: {limit: -1}}]`, refused: "spec.windows[0].gpus.limit: Invalid value: -1: " + wantGPUs},
		"a window of bad GPUs":              {spec: `windows: [{from: "22:00", to: "06:00", gpus: {limit: "-500m"}}]`, refused: `spec.windows[0].gpus.limit: Invalid value: "-500m"`},
		"a window above the queue's limit":  {spec: "gpus: {limit: 2}\n" + `windows: [{from: "22:00", to: "06:00", gpus: {guaranteed: 4}}]`, problem: `spec.windows[0].gpus.guaranteed is "4": want at most the limit, which is 2`},

		"a budget":                         {spec: "budget: {gpuHours: 1000}"},
		"a budget with everything":         {spec: "budget: {gpuHours: \"0.5\", period: Quarter, timeZone: America/New_York, rolloverPercent: 100, enforcement: Drain, drainGraceSeconds: 0, alertPercents: [50, 100], chargeStartup: false, adjustments: [{name: a, gpuHours: -10, at: \"2026-11-21T16:07:04Z\", reason: outage}]}"},
		"a budget without hours":           {spec: "budget: {period: Day}", refused: "spec.budget.gpuHours: Required value"},
		"a negative budget":                {spec: "budget: {gpuHours: -1}", refused: "spec.budget.gpuHours: Invalid value: -1: " + wantHours},
		"a budget of more than there is":   {spec: `budget: {gpuHours: 1000000000000000}`, refused: wantHours},
		"a budget finer than is counted":   {spec: `budget: {gpuHours: "0.0000001"}`, refused: wantHours},
		"a budget that is no whole second": {spec: `budget: {gpuHours: "0.000001"}`, problem: `spec.budget.gpuHours is "1u": want GPU-hours that are a whole number of milli-GPU-seconds, such as 1000 or 0.5`},
		"an unknown period":                {spec: "budget: {gpuHours: 1, period: Decade}", refused: `spec.budget.period: Unsupported value: "Decade"`},
		"an unknown enforcement":           {spec: "budget: {gpuHours: 1, enforcement: Kill}", refused: `spec.budget.enforcement: Unsupported value: "Kill"`},
		"alerts that go down":              {spec: "budget: {gpuHours: 1, alertPercents: [90, 80]}", refused: "want percents in ascending order"},
		"an alert at nothing":              {spec: "budget: {gpuHours: 1, alertPercents: [0]}", refused: "spec.budget.alertPercents[0]"},
		"a negative rollover":              {spec: "budget: {gpuHours: 1, rolloverPercent: -1}", refused: "spec.budget.rolloverPercent"},
		"a negative grace":                 {spec: "budget: {gpuHours: 1, drainGraceSeconds: -1}", refused: "spec.budget.drainGraceSeconds"},
		"a correction without a reason":    {spec: `budget: {gpuHours: 1, adjustments: [{name: a, gpuHours: 1, at: "2026-11-21T16:07:04Z"}]}`, refused: "spec.budget.adjustments[0].reason: Required value"},
		"a correction at no time":          {spec: `budget: {gpuHours: 1, adjustments: [{name: a, gpuHours: 1, at: soon, reason: r}]}`, refused: "spec.budget.adjustments[0].at"},
		"a correction without an amount":   {spec: `budget: {gpuHours: 1, adjustments: [{name: a, gpuHours: many, at: "2026-11-21T16:07:04Z", reason: r}]}`, refused: "spec.budget.adjustments[0].gpuHours"},
		"two corrections of one name":      {spec: `budget: {gpuHours: 1, adjustments: [{name: a, gpuHours: 1, at: "2026-11-21T16:07:04Z", reason: r}, {name: a, gpuHours: 1, at: "2026-11-21T16:07:04Z", reason: r}]}`, refused: "Duplicate value"},

		"runtimes":                       {spec: "runtime: {default: 90m, max: 168h}"},
		"a default runtime of nothing":   {spec: "runtime: {default: 0s}", refused: wantTime},
		"a negative runtime":             {spec: "runtime: {max: -1h}", refused: wantTime},
		"a runtime in days":              {spec: "runtime: {max: 2d}", refused: wantTime},
		"a default longer than the most": {spec: "runtime: {default: 2h, max: 90m}", refused: "spec.runtime: Invalid value: default is longer than max"},

		"namespaces":                    {spec: "namespaces: {names: [a, b], selector: {matchLabels: {team: x}}}"},
		"no namespace":                  {spec: "namespaces: {}"},
		"a selector of a bad operator":  {spec: "namespaces: {selector: {matchExpressions: [{key: a, operator: Like, values: [b]}]}}", problem: "spec.namespaces.selector is"},
		"a selector without its values": {spec: "namespaces: {selector: {matchExpressions: [{key: a, operator: In}]}}", problem: "spec.namespaces.selector is"},
	} {
		t.Run(name, func(t *testing.T) {
			u := weftObject(t, "Queue", "queue", c.spec)
			if c.name != "" {
				u.SetName(c.name)
			}
			created, err := client.Create(t.Context(), u, metav1.CreateOptions{
				DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict,
			})
			switch {
			case c.refused != "":
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("refused with\n%v\nwant\n%s", err, c.refused)
				}
			case err != nil:
				t.Errorf("refused: %v", err)
			default:
				q := typedObject[v1alpha1.Queue](t, created)
				var got strings.Builder
				for _, p := range queues.NewSet([]*v1alpha1.Queue{q}, nil, nil).Problems() {
					// That the parent is missing is found when the tree is built.
					if q.Spec.Parent == "" {
						got.WriteString(p.Message)
					}
				}
				if (got.Len() == 0) != (c.problem == "") || !strings.Contains(got.String(), c.problem) {
					t.Errorf("problem %q: want %q", got.String(), c.problem)
				}
			}
		})
	}
}

func testClasses(t *testing.T, cp *playground.ControlPlane) {
	const (
		wantWeight = "want a weight from 0 to 1000 in steps of a thousandth, such as 0.3"
		wantPrice  = "want a price from 0 to 999999 in steps of a millionth, such as 2.5"
	)
	client := dynamicClient(t, cp.AdminConfig()).Resource(v1alpha1.GPUClasses)
	for name, c := range map[string]struct{ spec, refused, problem string }{
		"nothing":                      {spec: "{}"},
		"everything":                   {spec: `{priority: -1, products: [A100], migProfiles: [1g.10gb], nodeSelector: {matchLabels: {a: b}}, weight: "0.3", price: {perGPUHour: "2.5", currency: EUR}}`},
		"the largest weight":           {spec: "weight: 1000"},
		"no weight":                    {spec: "weight: 0"},
		"as a program writes it":       {spec: "{weight: 1k, price: {perGPUHour: 2500m, currency: USD}}"},
		"too large a weight":           {spec: "weight: 1001", refused: "spec.weight: Invalid value: 1001: " + wantWeight},
		"a negative weight":            {spec: `weight: "-0.5"`, refused: wantWeight},
		"too fine a weight":            {spec: `weight: "0.0001"`, refused: wantWeight},
		"a negative price":             {spec: "price: {perGPUHour: -1, currency: EUR}", refused: "spec.price.perGPUHour: Invalid value: -1: " + wantPrice},
		"too fine a price":             {spec: `price: {perGPUHour: "0.0000001", currency: EUR}`, refused: wantPrice},
		"a price in no currency":       {spec: "price: {perGPUHour: 1}", refused: "spec.price.currency: Required value"},
		"a price in a bad currency":    {spec: "price: {perGPUHour: 1, currency: euro}", refused: "spec.price.currency"},
		"a product twice":              {spec: "products: [A100, A100]", refused: "spec.products[1]: Duplicate value"},
		"a selector of a bad operator": {spec: "nodeSelector: {matchExpressions: [{key: a, operator: Like}]}", problem: "spec.nodeSelector is"},
	} {
		t.Run(name, func(t *testing.T) {
			created, err := client.Create(t.Context(), weftObject(t, "GPUClass", "class", c.spec), metav1.CreateOptions{
				DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict,
			})
			switch {
			case c.refused != "":
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("refused with\n%v\nwant\n%s", err, c.refused)
				}
			case err != nil:
				t.Errorf("refused: %v", err)
			default:
				var got strings.Builder
				for _, p := range queues.NewSet(nil, []*v1alpha1.GPUClass{typedObject[v1alpha1.GPUClass](t, created)}, nil).Problems() {
					got.WriteString(p.Message)
				}
				if (got.Len() == 0) != (c.problem == "") || !strings.Contains(got.String(), c.problem) {
					t.Errorf("problem %q: want %q", got.String(), c.problem)
				}
			}
		})
	}
}

// testQueueStatus writes a status, and looks at what kubectl shows.
func testQueueStatus(t *testing.T, cp *playground.ControlPlane) {
	client := dynamicClient(t, cp.AdminConfig()).Resource(v1alpha1.Queues)
	if _, err := client.Create(t.Context(), weftObject(t, "Queue", "shown", "{gpus: {guaranteed: 2}, budget: {gpuHours: 100}}"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const status = `{"status":{"observedGeneration":1,"gpus":{"running":"1500m"},"pendingPods":3,"budget":{"periodStart":"2026-11-01T00:00:00Z",
		"periodEnd":"2026-12-01T00:00:00Z","asOf":"2026-11-21T16:00:00Z","epoch":7,"usedMilliGPUSeconds":3600000,"used":"1.000","held":"2.500","limit":"100.000"},
		"conditions":[{"type":"Valid","status":"True","reason":"Valid","message":"","lastTransitionTime":"2026-11-21T16:00:00Z"}]}}`
	u, err := client.Patch(t.Context(), "shown", types.MergePatchType, []byte(status), metav1.PatchOptions{FieldValidation: metav1.FieldValidationStrict}, "status")
	if err != nil {
		t.Fatal(err)
	}
	// The typed object, written back whole, is still valid: a controller does it.
	q := typedObject[v1alpha1.Queue](t, u)
	again, err := runtime.DefaultUnstructuredConverter.ToUnstructured(q)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.UpdateStatus(t.Context(), &unstructured.Unstructured{Object: again}, metav1.UpdateOptions{}); err != nil {
		t.Errorf("written back: %v", err)
	}
	checkpoint, ok := queues.NewSet([]*v1alpha1.Queue{q}, nil, nil).Checkpoint("shown")
	want := quota.Checkpoint{
		AsOf: time.Date(2026, 11, 21, 16, 0, 0, 0, time.UTC).Unix(), Start: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC).Unix(),
		End: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC).Unix(), Used: 3600000,
	}
	if diff := cmp.Diff(want, checkpoint); !ok || diff != "" {
		t.Errorf("checkpoint (-want +got):\n%s", diff)
	}

	var table metav1.Table
	err = clientset(t, cp.AdminConfig()).CoreV1().RESTClient().Get().AbsPath("/apis/weft.sh/v1alpha1/queues/shown").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Into(&table)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{}
	for i, c := range table.ColumnDefinitions {
		if c.Name != "Age" {
			shown[c.Name] = fmt.Sprint(table.Rows[0].Cells[i])
		}
	}
	if diff := cmp.Diff(map[string]string{
		"Name": "shown", "Parent": "<nil>", "GPUs": "1500m", "Guaranteed": "2", "Limit": "<nil>", "Used": "1.000", "Held": "2.500",
		"Budget": "100.000", "Pending": "3", "Valid": "True",
	}, shown); diff != "" {
		t.Errorf("columns (-want +got):\n%s", diff)
	}
}

// testQueueLabels tries to change who pays for a pod.
func testQueueLabels(t *testing.T, cp *playground.ControlPlane) {
	const policy = "pod-queue.weft.sh"
	const fixed = "the label weft.sh/queue says who pays for the pod and cannot change from %s to %s " +
		"once the pod may be scheduled: leave it as it is, or delete the pod and create it again"
	const badName = `label weft.sh/queue is the name of the Queue that pays for the pod: want lower case letters, digits, "-" and ".", such as team-a, found "%s"`
	pods := clientset(t, cp.AdminConfig()).CoreV1().Pods("default")
	pod := func(queue string) *corev1.Pod {
		p := manifestPod(nil, limits("main"))
		if queue != "" {
			p.Labels = map[string]string{podspec.LabelQueue: queue}
		}
		return p
	}
	dryRun := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	eventually(t, time.Minute, func() string {
		if _, err := pods.Create(t.Context(), pod("Bad"), dryRun); denial(err, policy) == "" {
			return fmt.Sprintf("the policy is not enforced: %v", err)
		}
		return ""
	})

	for name, c := range map[string]struct{ queue, want string }{
		"none":        {},
		"a queue":     {queue: "team-a.research"},
		"a bad name":  {queue: "Team_A", want: fmt.Sprintf(badName, "Team_A")},
		"a bad name2": {queue: "a..b", want: fmt.Sprintf(badName, "a..b")},
	} {
		t.Run("created with "+name, func(t *testing.T) {
			_, err := pods.Create(t.Context(), pod(c.queue), dryRun)
			if got := denial(err, policy); got != c.want || c.want == "" && err != nil {
				t.Errorf("denied with\n%s\nwant\n%s\nfull answer: %v", got, c.want, err)
			}
		})
	}

	label := func(value string) string { return `{"metadata":{"labels":{"weft.sh/queue":` + value + `}}}` }
	for name, c := range map[string]struct {
		none, gated, notWeft bool
		subresource          []string
		patch, want          string
	}{
		"another label":                 {patch: `{"metadata":{"labels":{"app":"x"}}}`},
		"the same":                      {patch: label(`"a"`)},
		"another queue":                 {patch: label(`"b"`), want: fmt.Sprintf(fixed, `"a"`, `"b"`)},
		"another queue by the status":   {patch: label(`"b"`), subresource: []string{"status"}, want: fmt.Sprintf(fixed, `"a"`, `"b"`)},
		"no queue":                      {patch: label(`null`), want: fmt.Sprintf(fixed, `"a"`, `none`)},
		"a queue for the first time":    {none: true, patch: label(`"b"`), want: fmt.Sprintf(fixed, `none`, `"b"`)},
		"another queue, behind a gate":  {gated: true, patch: label(`"b"`)},
		"no queue, behind a gate":       {gated: true, patch: label(`null`)},
		"a bad name, behind a gate":     {gated: true, patch: label(`""`), want: fmt.Sprintf(badName, "")},
		"another queue, not Weft's pod": {notWeft: true, patch: label(`"b"`)},
	} {
		t.Run("changed to "+name, func(t *testing.T) {
			p := pod("a")
			p.GenerateName = "queued-"
			if c.none {
				p.Labels = nil
			}
			if c.gated {
				p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}}
			}
			if c.notWeft {
				p.Spec.SchedulerName = ""
			}
			p, err := pods.Create(t.Context(), p, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = pods.Patch(t.Context(), p.Name, types.MergePatchType, []byte(c.patch), metav1.PatchOptions{}, c.subresource...)
			if got := denial(err, policy); got != c.want || c.want == "" && err != nil {
				t.Errorf("denied with\n%s\nwant\n%s\nfull answer: %v", got, c.want, err)
			}
		})
	}
}

// testQueueRights looks at the roles that the aggregation would make of the shipped ones; no controller manager runs here.
func testQueueRights(t *testing.T, cp *playground.ControlPlane) {
	roles := clientset(t, cp.AdminConfig()).RbacV1().ClusterRoles()
	for name, want := range map[string]struct{ into, verbs []string }{
		"weft-queue-viewer": {[]string{"admin", "edit", "view"}, []string{"get", "list", "watch"}},
		"weft-queue-editor": {[]string{"admin"}, []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}},
	} {
		role, err := roles.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var into, verbs []string
		for label := range maps.Keys(role.Labels) {
			if to, ok := strings.CutPrefix(label, "rbac.authorization.k8s.io/aggregate-to-"); ok {
				into = append(into, to)
			}
		}
		for _, rule := range role.Rules {
			if diff := cmp.Diff([]string{"queues", "gpuclasses"}, rule.Resources); diff != "" {
				t.Errorf("%s: resources (-want +got):\n%s", name, diff)
			}
			verbs = append(verbs, rule.Verbs...)
		}
		slices.Sort(into)
		slices.Sort(verbs)
		if diff := cmp.Diff([][]string{want.into, want.verbs}, [][]string{into, verbs}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// The kinds are defined after the tracker has started, and everything that comes after it is seen.
func TestQueuesThatAreDefinedLater(t *testing.T) {
	cp := startControlPlane(t, playground.ControlPlaneOptions{})
	client := dynamicClient(t, cp.AdminConfig())
	pods := clientset(t, cp.AdminConfig())
	factory := informers.NewSharedInformerFactory(pods, 0)
	tracker, err := queues.NewTracker(client, factory)
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan *queues.Set, 1000)
	tracker.OnChange(func(s *queues.Set) { heard <- s })
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(factory.Shutdown)
	t.Cleanup(cancel)
	factory.Start(ctx.Done())
	tracker.Start(ctx)
	syncCtx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	if err := tracker.WaitForSync(syncCtx); err != nil {
		t.Fatalf("without the definitions: %v", err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Labels: map[string]string{podspec.LabelQueue: "team"}}}
	if queue, v := tracker.Set().QueueOf(pod); queue != "" || !v.OK() {
		t.Fatalf("without the definitions a pod is of queue %q, %v", queue, v)
	}
	await := func(what string, done func(*queues.Set) bool) *queues.Set {
		t.Helper()
		deadline := time.After(time.Minute)
		for {
			select {
			case s := <-heard:
				if done(s) {
					return s
				}
			case <-deadline:
				t.Fatalf("%s: not seen", what)
			}
		}
	}

	if err := playground.Apply(t.Context(), cp.AdminConfig(), manifestObjects(t)); err != nil {
		t.Fatal(err)
	}
	list := client.Resource(v1alpha1.Queues)
	if _, err := list.Create(t.Context(), weftObject(t, "Queue", "team", "{namespaces: {selector: {matchLabels: {team: a}}}, budget: {gpuHours: 1}}"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s := await("the queue", func(s *queues.Set) bool { return slices.Contains(s.Tree().Names(), "team") })
	if _, v := s.QueueOf(pod); v.Reason != quota.QueueForbidden {
		t.Errorf("from a namespace that is not selected: %+v", v)
	}
	if _, err := pods.CoreV1().Namespaces().Patch(t.Context(), "default", types.MergePatchType, []byte(`{"metadata":{"labels":{"team":"a"}}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	await("the namespace", func(s *queues.Set) bool { _, v := s.QueueOf(pod); return v.OK() })
	if _, err := client.Resource(v1alpha1.GPUClasses).Create(t.Context(), weftObject(t, "GPUClass", "dear", `{products: [H100], weight: "2"}`), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s = await("the class", func(s *queues.Set) bool { return s.ClassOn(nil, "H100", "").WeightMilli == 2000 })

	// A status leaves the tree as it is. The tree may still be made anew once, when the tracker hears that it has read all classes.
	for used := int64(5); ; used++ {
		tree := s.Tree()
		status := fmt.Sprintf(`{"status":{"budget":{"periodStart":"2026-11-01T00:00:00Z","asOf":"2026-11-21T16:00:00Z","usedMilliGPUSeconds":%d}}}`, used)
		if _, err := list.Patch(t.Context(), "team", types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
		s = await("the status", func(s *queues.Set) bool { c, _ := s.Checkpoint("team"); return c.Used == used })
		if s.Tree() == tree {
			break
		}
		if used == 9 {
			t.Error("every status made another tree")
			break
		}
	}
	if err := list.Delete(t.Context(), "team", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await("no queue", func(s *queues.Set) bool { return len(s.Tree().Names()) == 0 })
	if tracker.Set().ClassOn(nil, "H100", "").Name != "dear" {
		t.Error("the class went with the queue")
	}
}
