package gang

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	apipod "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"weft.sh/weft/pkg/gang"
)

// tellTimeout bounds the time to tell the members of a gang.
const tellTimeout = 30 * time.Second

// tellOthers tells the members of a gang that was refused, all but the one that leads, what each would be told in a cycle of its
// own: the scheduler writes the status of a refused pod in the scheduling loop and waits for the answer, so that the last of 80
// members hears after 80 round trips, and meanwhile nobody else is scheduled. A cycle finds nothing left to write when its member
// has been told. The loop begins with the first members, so this begins with the last.
func (pl *Plugin) tellOthers(k gang.Key, leader *v1.Pod, r *refusal, nodes int) {
	message := (&framework.FitError{NumAllNodes: nodes, Diagnosis: framework.Diagnosis{
		NodeToStatus: framework.NewDefaultNodeToStatus(), PreFilterMsg: r.message,
	}}).Error()
	var others []*v1.Pod
	for _, p := range slices.Backward(pl.gangs.tracker.Members(k)) {
		if r.members[p.UID] != nil && p.UID != leader.UID && p.Spec.NodeName == "" && !says(p, r.reason.String()+": ") {
			others = append(others, p)
		}
	}
	if len(others) == 0 {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), tellTimeout)
		defer cancel()
		pl.handle.Parallelizer().Until(ctx, len(others), func(i int) {
			if !pl.gangs.queue.stands(k, r) {
				return // it has a plan, or is told something else
			}
			if err := pl.tellOne(ctx, others[i], message); err != nil {
				logger().V(2).Info("A member is told in its own cycle", "pod", others[i].Namespace+"/"+others[i].Name, "err", err)
			}
		}, Name)
	}()
}

// says reports whether the pod's condition has the text.
func says(pod *v1.Pod, text string) bool {
	_, c := apipod.GetPodCondition(&pod.Status, v1.PodScheduled)
	return c != nil && c.Status == v1.ConditionFalse && c.Reason == v1.PodReasonUnschedulable && strings.Contains(c.Message, text)
}

// tellOne writes the condition, as the scheduler does, unless the pod is not as it was: it may have been bound.
func (pl *Plugin) tellOne(ctx context.Context, pod *v1.Pod, message string) error {
	status := pod.Status.DeepCopy()
	if !apipod.UpdatePodCondition(status, &v1.PodCondition{
		Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonUnschedulable, Message: message,
		ObservedGeneration: apipod.CalculatePodConditionObservedGeneration(&pod.Status, pod.Generation, v1.PodScheduled),
	}) {
		return nil
	}
	before, err := json.Marshal(v1.Pod{Status: pod.Status})
	if err != nil {
		return err
	}
	after, err := json.Marshal(v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: pod.UID, ResourceVersion: pod.ResourceVersion}, Status: *status})
	if err != nil {
		return err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, v1.Pod{})
	if err != nil {
		return fmt.Errorf("status of %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	_, err = pl.handle.ClientSet().CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}
