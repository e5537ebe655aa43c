package gang

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	clienttesting "k8s.io/client-go/testing"
)

// The scheduler tells one member after the other in its loop. The plugin does not wait for that: here it tells those that have
// heard nothing, while the loop has nothing to do.
func TestMembersAreToldWithoutTheirCycles(t *testing.T) {
	withoutNominations(t)
	for name, tc := range map[string]struct {
		// meanwhile is called with one of the two that have not heard; want are those that are told.
		meanwhile func(r *rig, first string)
		want      int
	}{
		"all that have not heard":              {func(*rig, string) {}, 2},
		"not when there is a plan by now":      {func(r *rig, _ string) { r.gangs.queue.accept(key("g")) }, 0},
		"not when it is refused for more":      {func(r *rig, _ string) { r.gangs.queue.refuse(key("g"), &refusal{}) }, 0},
		"not those that are bound by somebody": {func(r *rig, first string) { r.change(first, func(p *v1.Pod) { p.Spec.NodeName = "n0" }) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nodesOf(1, 8), func(r *rig) {
				r.group("g", 4)
				r.create(membersOf("g", 4, 8)...)
				message := r.said("g-0")
				if !strings.HasPrefix(message, "Unschedulable: 0/1 nodes are available: InsufficientGangCapacity: ") {
					t.Fatalf("g-0 says %q", message)
				}
				k := key("g")
				r.gangs.queue.mu.Lock()
				refused := r.gangs.queue.refusals[k]
				r.gangs.queue.mu.Unlock()
				leader := refused.members[refused.leader]
				others := slices.DeleteFunc([]string{"g-0", "g-1", "g-2", "g-3"}, func(name string) bool { return name == leader.Name })[:2]
				for _, p := range others {
					r.change(p, func(p *v1.Pod) { p.Status.Conditions, p.ResourceVersion = nil, "7" })
				}
				tc.meanwhile(r, others[0])
				r.after(time.Millisecond)
				r.client.ClearActions()
				r.gangs.plugin("weft").tellOthers(k, leader, refused, 1)
				r.after(time.Millisecond)
				var told []string
				for _, a := range r.client.Actions() {
					if patch, ok := a.(clienttesting.PatchAction); ok {
						told = append(told, patch.GetName())
						// What is not as it was then, is not written.
						for _, want := range []string{`"resourceVersion":"7"`, `"uid":"` + string(r.pod(patch.GetName()).UID)} {
							if !strings.Contains(string(patch.GetPatch()), want) {
								t.Errorf("the patch %s does not have %s", patch.GetPatch(), want)
							}
						}
						if got := r.said(patch.GetName()); got != message {
							t.Errorf("%s says %q, the leader %q", patch.GetName(), got, message)
						}
					}
				}
				slices.Sort(told)
				if want := others[2-tc.want:]; !slices.Equal(told, want) {
					t.Errorf("told are %q, want %q", told, want)
				}
			})
		})
	}
}

// change has somebody else change the pod.
func (r *rig) change(pod string, f func(*v1.Pod)) {
	r.t.Helper()
	p := r.pod(pod)
	f(p)
	if err := r.client.Tracker().Update(v1.SchemeGroupVersion.WithResource("pods"), p, p.Namespace); err != nil {
		r.t.Fatal(err)
	}
}
