package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/cli"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/quota"
)

// TestCommandLineOfQueues: what weft says of queues on an API server that does not know their definition yet, and on one that does, for
// those who may read them and those who may not.
func TestCommandLineOfQueues(t *testing.T) {
	c := newCommandLine(t)
	c.namespace("ml")
	c.node("a", map[string]string{podspec.LabelProduct: "NVIDIA-H100-80GB-HBM3"}, h100s("a", 4)...)
	queued := func(name, runtime string, gpus int64, node, assignment string) *corev1.Pod {
		p := c.template(name, podspec.ResourceGPU, gpus)
		p.Labels = map[string]string{podspec.LabelQueue: "research"}
		p.Annotations = map[string]string{podspec.AnnotationRuntime: runtime}
		p.Spec.NodeName = node
		if assignment != "" {
			p.Annotations[podspec.AnnotationGPUs] = assignment
		}
		return c.create(p)
	}
	queued("runs", "2h", 1, "a", "main=GPU-a-0")
	waits := queued("waits", "8h", 1, "", "")
	queued("large", "1m", 3, "", "")
	queued("small", "1m", 1, "", "")

	t.Run("without the definition", func(t *testing.T) {
		c := c.in(t)
		if out := c.run("queue"); !strings.HasPrefix(out, "There are no queues") {
			t.Errorf("%s", out)
		}
		if _, err := c.try(c.kubeconfig, "queue", "research"); err == nil || !strings.Contains(err.Error(), "the cluster does not know Queues") {
			t.Errorf("a queue: %v", err)
		}
		var a cli.Answer
		decode(t, c.run("why", "-n", "ml", "waits", "-o", "json"), &a)
		if a.Verdict != cli.VerdictFits || a.Queue != nil {
			t.Errorf("%s, %+v", a.Verdict, a.Queue)
		}
	})

	if err := playground.Apply(t.Context(), c.cp.AdminConfig(), manifestObjects(t)); err != nil {
		t.Fatal(err)
	}
	client := dynamicClient(t, c.cp.AdminConfig()).Resource(v1alpha1.Queues)
	for name, spec := range map[string]string{
		"org":      "{gpus: {limit: 3}}",
		"research": "{parent: org, gpus: {guaranteed: 0}, budget: {gpuHours: 20, period: Month, enforcement: Hold}}",
	} {
		if _, err := client.Create(t.Context(), weftObject(t, "Queue", name, spec), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// As weft-controller writes it: 12 of 20 GPU-hours are used, up to now.
	spec, err := client.Get(t.Context(), "research", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	start, end := (&quota.Budget{Period: quota.PeriodMonth}).PeriodAt(now.Unix())
	at := func(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.RFC3339) }
	status := fmt.Sprintf(`{"status":{"observedGeneration":%d,"gpus":{"running":"1","borrowed":"1","pending":"5"},"pendingPods":3,"budget":{"periodStart":%q,
		"periodEnd":%q,"asOf":%q,"epoch":1,"usedMilliGPUSeconds":43200000,"used":"12","held":"2","limit":"20","left":"6","burnPerDay":"12"},
		"conditions":[{"type":"Valid","status":"True","reason":"Valid","message":"","lastTransitionTime":%[2]q}]}}`,
		spec.GetGeneration(), at(start), at(end), at(now.Unix()))
	if _, err := client.Patch(t.Context(), "research", types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	// As the scheduler says it.
	waits.Status.Conditions = []corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: quota.OverBudget.String(), Message: "too little is left",
	}}
	if _, err := c.client.CoreV1().Pods("ml").UpdateStatus(t.Context(), waits, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	t.Run("the tree", func(t *testing.T) {
		c := c.in(t)
		var q cli.Queues
		decode(t, c.run("queue", "-o", "json"), &q)
		if len(q.Queues) != 2 || q.Queues[0].Queue != "org" || q.Queues[0].LimitMilliGPU != 3000 || q.Queues[1].Depth != 1 {
			t.Fatalf("%+v", q)
		}
		b := q.Queues[1].Budget
		if b == nil || b.UsedMilliGPUSeconds != 43_200_000 || b.LimitMilliGPUSeconds != 72_000_000 || b.LeftMilliGPUSeconds != 21_600_000 ||
			b.LastsSeconds != 43200 || b.PeriodEnd != at(end) {
			t.Errorf("%+v", b)
		}
		if out := c.run("queue"); !strings.Contains(out, "\n  research ") {
			t.Errorf("%s", out)
		}
		if out := c.run("__completeNoDesc", "queue", "r"); !strings.HasPrefix(out, "research\n") {
			t.Errorf("completion: %q", out)
		}
	})
	t.Run("a queue", func(t *testing.T) {
		c := c.in(t)
		var a cli.QueueAnswer
		decode(t, c.run("queue", "queue.weft.sh/research", "-o", "json"), &a)
		reasons := map[string]int{}
		for _, w := range a.Waiting {
			reasons[w.Reason] = w.Count
		}
		if reasons["OverBudget"] != 1 || reasons[""] != 2 || a.Line.Queue != "research" || !a.EveryNamespace {
			t.Errorf("%+v", a)
		}
		if _, err := c.try(c.kubeconfig, "queue", "none"); err == nil || !strings.Contains(err.Error(), `queue "none" not found: there are org, research`) {
			t.Errorf("one that is not there: %v", err)
		}
	})
	t.Run("why its pods wait", func(t *testing.T) {
		c := c.in(t)
		for pod, want := range map[string]struct{ verdict, reason, heldBy string }{
			"waits": {cli.VerdictHeldBack, "OverBudget", "research"}, // 12 used, 2 held, 8 needed of 20
			"large": {cli.VerdictHeldBack, "OverLimit", "org"},
			"small": {cli.VerdictFits, "", ""},
		} {
			var a cli.Answer
			decode(t, c.run("why", "-n", "ml", pod, "-o", "json"), &a)
			got := cli.QueueHold{}
			if a.Queue != nil {
				got = *a.Queue
			}
			if a.Verdict != want.verdict || got.Reason != want.reason || got.HeldBy != want.heldBy {
				t.Errorf("%s: %s, %+v", pod, a.Verdict, a.Queue)
			}
			if pod == "waits" && (got.Hours == nil || got.Hours.UsedMilliGPUSeconds != 43_200_000 || got.Hours.NeedMilliGPUSeconds != 28_800_000 || got.PeriodEnds == "") {
				t.Errorf("%+v, %+v", got, got.Hours)
			}
		}
	})
	t.Run("without permission", func(t *testing.T) {
		c := c.in(t)
		nobody := c.as("nobody")
		if _, err := c.try(nobody, "queue"); err == nil || !strings.Contains(err.Error(), "queues.weft.sh") || !strings.Contains(err.Error(), "kubectl create clusterrole weft-view") {
			t.Errorf("%v, want what an administrator has to do", err)
		}
		// Who may read nodes and pods alone gets what the scheduler said.
		role := &rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: "view-some"},
			Rules: []rbacv1.PolicyRule{
				{APIGroups: []string{""}, Resources: []string{"nodes", "pods"}, Verbs: []string{"get", "list"}},
				{APIGroups: []string{"resource.k8s.io"}, Resources: []string{"resourceslices"}, Verbs: []string{"get", "list"}},
			},
		}
		if _, err := c.client.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "view-some"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view-some"},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: "nobody", APIGroup: rbacv1.GroupName}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, func() string {
			out, err := c.try(nobody, "why", "-n", "ml", "waits")
			if err != nil || !strings.Contains(out, "OverBudget: too little is left") || !strings.Contains(out, "you may not read Queues") {
				return fmt.Sprintf("%v\n%s", err, out)
			}
			return ""
		})
	})
}
