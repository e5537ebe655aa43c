package integration

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
)

// testQueueLeaves tries to delete queues, and to give them another parent, while what they use counts for the one they have.
func testQueueLeaves(t *testing.T, cp *playground.ControlPlane) {
	const policy = "queue-leaves.weft.sh"
	client := dynamicClient(t, cp.AdminConfig()).Resource(v1alpha1.Queues)
	budget := func(used int64) string {
		return fmt.Sprintf(`,"budget":{"periodStart":"2026-11-01T00:00:00Z","asOf":"2026-11-21T16:00:00Z","epoch":1,"usedMilliGPUSeconds":%d,"used":"%d.000"}`,
			used*3600000, used)
	}
	made := 0
	queue := func(t *testing.T, parent, status string) string {
		t.Helper()
		made++
		name, spec := fmt.Sprintf("leaves-%d", made), "weight: 2"
		if parent != "" {
			spec = "parent: " + parent
		}
		if _, err := client.Create(t.Context(), weftObject(t, "Queue", name, spec), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if status != "" {
			body := []byte(`{"status":{` + status + `}}`)
			if _, err := client.Patch(t.Context(), name, types.MergePatchType, body, metav1.PatchOptions{}, "status"); err != nil {
				t.Fatal(err)
			}
		}
		return name
	}
	patch := func(name, body string) error {
		_, err := client.Patch(t.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
		return err
	}
	eventually(t, time.Minute, func() string {
		if err := client.Delete(t.Context(), queue(t, "org", `"gpus":{"running":1}`), metav1.DeleteOptions{}); denial(err, policy) == "" {
			return fmt.Sprintf("the policy is not enforced: %v", err)
		}
		return ""
	})
	const refused = "queue %s runs %s GPUs and used %s GPU-hours of its budget, which would be given back to queue org: set spec.gpus.limit to 0 " +
		`and wait until its pods and the period have ended, or accept it with the annotation weft.sh/confirm-delete: "true"`
	for name, c := range map[string]struct {
		parent, status string
		running, used  string // in the message; empty for none
	}{
		"a queue without a status":        {parent: "org"},
		"a queue that nobody uses":        {parent: "org", status: `"gpus":{"running":"0"}` + budget(0)},
		"a queue at the top":              {status: `"gpus":{"running":"4"}` + budget(5)},
		"a queue of which pods run":       {parent: "org", status: `"gpus":{"running":"1500m"}`, running: "1500m", used: "0"},
		"a queue that used of its budget": {parent: "org", status: `"gpus":{"running":0}` + budget(5), running: "0", used: "5.000"},
	} {
		t.Run(name, func(t *testing.T) {
			for what, leave := range map[string]func(string) error{
				"deleted":            func(q string) error { return client.Delete(t.Context(), q, metav1.DeleteOptions{}) },
				"of another parent":  func(q string) error { return patch(q, `{"spec":{"parent":"other"}}`) },
				"of no parent":       func(q string) error { return patch(q, `{"spec":{"parent":null}}`) },
				"of the same parent": func(q string) error { return patch(q, `{"spec":{"weight":3}}`) },
			} {
				q := queue(t, c.parent, c.status)
				want := ""
				if c.used != "" && what != "of the same parent" {
					want = fmt.Sprintf(refused, q, c.running, c.used)
				}
				err := leave(q)
				if got := denial(err, policy); got != want || want == "" && err != nil || want != "" && !apierrors.IsForbidden(err) {
					t.Errorf("%s: denied with\n%s\nwant\n%s\nfull answer: %v", what, got, want, err)
				}
				if want == "" {
					continue
				}
				if err := patch(q, `{"metadata":{"annotations":{"weft.sh/confirm-delete":"true"}}}`); err != nil {
					t.Fatal(err)
				}
				if err := leave(q); err != nil {
					t.Errorf("%s, which was accepted: %v", what, err)
				}
			}
		})
	}

	// The controller's way to write: only over the status that it knows.
	q := queue(t, "", `"gpus":{"running":"4"}`+budget(5))
	write := func(epoch int) error {
		body := fmt.Appendf(nil, `[{"op":"test","path":"/status/budget/epoch","value":%d},{"op":"add","path":"/status","value":{"pendingPods":3}}]`, epoch)
		_, err := client.Patch(t.Context(), q, types.JSONPatchType, body, metav1.PatchOptions{}, "status")
		return err
	}
	if err := write(2); !apierrors.IsInvalid(err) {
		t.Errorf("over a status of another epoch: %v", err)
	}
	if err := write(1); err != nil {
		t.Errorf("over the status that is known: %v", err)
	}
}

// testRuntimes tries to change how long a pod says that it runs, which is what it holds of a budget.
func testRuntimes(t *testing.T, cp *playground.ControlPlane) {
	const policy = "pod-runtime.weft.sh"
	const refused = "the annotation weft.sh/runtime says what the pod holds of the budget of its queue and cannot change from %s to %s " +
		"once the pod is bound: leave it as it is; a pod that runs longer than it said goes on"
	pods := clientset(t, cp.AdminConfig()).CoreV1().Pods("default")
	annotate := func(key, value string) string { return fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, key, value) }
	shorter, none := annotate(podspec.AnnotationRuntime, `"1s"`), annotate(podspec.AnnotationRuntime, "null")
	pod := func(t *testing.T, said, scheduler, node string) *corev1.Pod {
		t.Helper()
		p := manifestPod(nil, limits("main"))
		if said != "" {
			p.Annotations = map[string]string{podspec.AnnotationRuntime: said}
		}
		p.Spec.SchedulerName, p.Spec.NodeName = scheduler, node
		p, err := pods.Create(t.Context(), p, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for name, c := range map[string]struct {
		said, scheduler, node, patch, want string
		subresource                        []string
	}{
		"shorter, when it waits":          {said: "6h", scheduler: "weft", patch: shorter},
		"none, when it waits":             {said: "6h", scheduler: "weft", patch: none},
		"shorter, when it is bound":       {said: "6h", scheduler: "weft", node: "n", patch: shorter, want: fmt.Sprintf(refused, `"6h"`, `"1s"`)},
		"shorter, by the status":          {said: "6h", scheduler: "weft", node: "n", patch: shorter, want: fmt.Sprintf(refused, `"6h"`, `"1s"`), subresource: []string{"status"}},
		"none, when it is bound":          {said: "6h", scheduler: "weft", node: "n", patch: none, want: fmt.Sprintf(refused, `"6h"`, "none")},
		"one for the first time":          {scheduler: "weft", node: "n", patch: shorter, want: fmt.Sprintf(refused, "none", `"1s"`)},
		"the same":                        {said: "6h", scheduler: "weft", node: "n", patch: annotate(podspec.AnnotationRuntime, `"6h"`)},
		"a checkpoint, when it is bound":  {said: "6h", scheduler: "weft", node: "n", patch: annotate(podspec.AnnotationCheckpointedAt, `"2026-11-21T16:07:04Z"`)},
		"shorter, of another's scheduler": {said: "6h", scheduler: "theirs", node: "n", patch: shorter},
	} {
		t.Run(name, func(t *testing.T) {
			try := func() error {
				_, err := pods.Patch(t.Context(), pod(t, c.said, c.scheduler, c.node).Name, types.MergePatchType, []byte(c.patch), metav1.PatchOptions{}, c.subresource...)
				return err
			}
			err := try()
			if c.want != "" {
				eventually(t, time.Minute, func() string { // policies are read from a watch
					if err = try(); denial(err, policy) == "" {
						return fmt.Sprintf("the policy is not enforced: %v", err)
					}
					return ""
				})
			}
			if got := denial(err, policy); got != c.want || c.want == "" && err != nil {
				t.Errorf("denied with\n%s\nwant\n%s\nfull answer: %v", got, c.want, err)
			}
		})
	}
}
