package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/rest"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// podGroups are the PodGroups of the namespace default.
func podGroups(t *testing.T, cfg *rest.Config) dynamic.ResourceInterface {
	t.Helper()
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client.Resource(podgroup.Resource).Namespace("default")
}

// podGroup is a PodGroup as somebody would write it; without minMember when it is negative.
func podGroup(name string, minMember int64, annotations map[string]string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{}}}
	u.SetAPIVersion(schedv1alpha1.SchemeGroupVersion.String())
	u.SetKind("PodGroup")
	u.SetName(name)
	u.SetAnnotations(annotations)
	if minMember >= 0 {
		u.Object["spec"] = map[string]any{"minMember": minMember}
	}
	return u
}

// member is a pod of the group.
func member(group, name string) *corev1.Pod {
	p := manifestPod(nil, limits("main", podspec.ResourceGPU, "1"))
	p.GenerateName, p.Name, p.Labels = "", name, map[string]string{podspec.LabelPodGroup: group}
	return p
}

// testPodGroups tries PodGroups that have a meaning and such that have none.
func testPodGroups(t *testing.T, cp *playground.ControlPlane) {
	groups := podGroups(t, cp.AdminConfig())
	const policy = "pod-groups.weft.sh"
	one := func(key, value string) map[string]string { return map[string]string{key: value} }
	wantLevel := `want "nvlink" or a node label key such as topology.kubernetes.io/rack, found annotation `
	wantLost := `annotation weft.sh/on-member-lost is what happens when a running pod of the group is lost: want "replace" or "restart", found `
	wantPartial := `annotation weft.sh/on-partial-start is what happens when only some pods of the group could be bound: want "shrink" or "leave", found `
	wantGrace := `annotation weft.sh/partial-grace is how long fewer than minMember pods of the group may be bound: want a duration of 0 or more, such as 30s, found `
	for name, c := range map[string]struct {
		min         int64
		annotations map[string]string
		// denied is what the policy says, refused is contained in what the definition's own validation says. With neither
		// the group is admitted.
		denied, refused string
	}{
		"one member":        {min: 1},
		"a thousand":        {min: 1000},
		"none":              {min: 0, refused: "spec.minMember: Invalid value: 0: spec.minMember in body should be greater than or equal to 1"},
		"not said how many": {min: -1, refused: "spec.minMember: Required value"},
		"everything": {min: 2, annotations: map[string]string{
			podspec.AnnotationTopologyRequired: "topology.kubernetes.io/zone", podspec.AnnotationTopologyPreferred: "nvlink",
			podspec.AnnotationOnMemberLost: "restart", podspec.AnnotationOnPartialStart: "leave", podspec.AnnotationPartialGrace: "1m30s",
			"example.com/note": "x",
		}},
		"a level that could exist":       {min: 2, annotations: one(podspec.AnnotationTopologyRequired, "rack")},
		"a level with a slash too many":  {min: 2, annotations: one(podspec.AnnotationTopologyRequired, "a/b/c"), denied: wantLevel + `weft.sh/topology-required "a/b/c"`},
		"a level that is empty":          {min: 2, annotations: one(podspec.AnnotationTopologyPreferred, ""), denied: wantLevel + `weft.sh/topology-preferred ""`},
		"a policy for the lost":          {min: 2, annotations: one(podspec.AnnotationOnMemberLost, "replace")},
		"an unknown policy for the lost": {min: 2, annotations: one(podspec.AnnotationOnMemberLost, "ignore"), denied: wantLost + `"ignore"`},
		"none, said so":                  {min: 2, annotations: one(podspec.AnnotationOnMemberLost, ""), denied: wantLost + `""`},
		"a policy for parts":             {min: 2, annotations: one(podspec.AnnotationOnPartialStart, "shrink")},
		"an unknown policy for parts":    {min: 2, annotations: one(podspec.AnnotationOnPartialStart, "Leave"), denied: wantPartial + `"Leave"`},
		"no grace":                       {min: 2, annotations: one(podspec.AnnotationPartialGrace, "0")},
		"no grace, with a unit":          {min: 2, annotations: one(podspec.AnnotationPartialGrace, "0s")},
		"half an hour":                   {min: 2, annotations: one(podspec.AnnotationPartialGrace, "0.5h")},
		"a grace without a unit":         {min: 2, annotations: one(podspec.AnnotationPartialGrace, "30"), denied: wantGrace + `"30"`},
		"a grace of less than nothing":   {min: 2, annotations: one(podspec.AnnotationPartialGrace, "-1s"), denied: wantGrace + `"-1s"`},
		"an annotation that is misspelt": {
			min: 2, annotations: one("weft.sh/topology", "nvlink"),
			denied: "unknown annotation weft.sh/topology; known ones of a PodGroup are weft.sh/topology-required, " +
				"weft.sh/topology-preferred, weft.sh/on-member-lost, weft.sh/on-partial-start, weft.sh/partial-grace",
		},
	} {
		t.Run(name, func(t *testing.T) {
			created, err := groups.Create(t.Context(), podGroup("group", c.min, c.annotations), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			switch {
			case c.denied != "":
				if got := denial(err, policy); got != c.denied {
					t.Errorf("denied with\n%s\nwant\n%s\nfull answer: %v", got, c.denied, err)
				}
			case c.refused != "":
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("refused with\n%v\nwant\n%s", err, c.refused)
				}
			case err != nil:
				t.Errorf("refused: %v", err)
			default:
				// What is admitted has to have a meaning.
				pg := &schedv1alpha1.PodGroup{}
				if err := runtime.DefaultUnstructuredConverter.FromUnstructured(created.Object, pg); err != nil {
					t.Fatal(err)
				}
				if _, err := podgroup.FromCRD(pg); err != nil {
					t.Errorf("admitted, but the scheduler cannot read it: %v", err)
				}
			}
			if c.denied != "" {
				if _, err := podgroup.FromCRD(&schedv1alpha1.PodGroup{
					ObjectMeta: metav1.ObjectMeta{Annotations: c.annotations}, Spec: schedv1alpha1.PodGroupSpec{MinMember: 2},
				}); err == nil && !strings.HasPrefix(c.denied, "unknown annotation") {
					t.Error("denied, but the scheduler can read it")
				}
			}
		})
	}

	t.Run("changes", func(t *testing.T) {
		if _, err := groups.Create(t.Context(), podGroup("changes", 2, nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		patch := func(body string, subresource ...string) (*unstructured.Unstructured, error) {
			return groups.Patch(t.Context(), "changes", types.MergePatchType, []byte(body), metav1.PatchOptions{}, subresource...)
		}
		const bad = `{"metadata":{"annotations":{"weft.sh/on-member-lost":"ignore"}}}`
		_, err := patch(bad)
		if got, want := denial(err, policy), wantLost+`"ignore"`; got != want {
			t.Errorf("denied with\n%s\nwant\n%s\nfull answer: %v", got, want, err)
		}
		// A write of the status does not reach the annotations, so it is not looked at.
		if u, err := patch(bad, "status"); err != nil || len(u.GetAnnotations()) > 0 {
			t.Errorf("annotations %v, %v: want none", u.GetAnnotations(), err)
		}
		if _, err := patch(`{"metadata":{"annotations":{"weft.sh/of-a-later-version":"x"}},"spec":{"minMember":3}}`); err != nil {
			t.Error(err)
		}
		// What Weft adds to the status is kept.
		u, err := patch(`{"status":{"phase":"Running","scheduled":3,"message":"all run","running":3}}`, "status")
		if err != nil {
			t.Fatal(err)
		}
		scheduled, _, _ := unstructured.NestedInt64(u.Object, "status", "scheduled")
		message, _, _ := unstructured.NestedString(u.Object, "status", "message")
		if scheduled != 3 || message != "all run" {
			t.Errorf("status %v: want scheduled 3 and a message", u.Object["status"])
		}
	})

	t.Run("columns", func(t *testing.T) {
		var table metav1.Table
		client := clientset(t, cp.AdminConfig()).CoreV1().RESTClient()
		err := client.Get().AbsPath("/apis/scheduling.x-k8s.io/v1alpha1/namespaces/default/podgroups").
			SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Into(&table)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range table.ColumnDefinitions {
			got = append(got, c.Name)
		}
		if want := []string{"Name", "Phase", "MinMember", "Scheduled", "Running", "Succeeded", "Failed", "Age", "Message"}; !slices.Equal(got, want) {
			t.Errorf("columns %q: want %q", got, want)
		}
	})
}

// testGangMembers tries to move pods from one gang to another.
func testGangMembers(t *testing.T, cp *playground.ControlPlane) {
	const fixed = "the label scheduling.x-k8s.io/pod-group says which gang the pod belongs to and cannot change from %s to %s " +
		"once the pod may be scheduled: leave it as it is, or delete the pod and create it again"
	label := func(value string) string {
		return `{"metadata":{"labels":{"scheduling.x-k8s.io/pod-group":` + value + `}}}`
	}
	for name, c := range map[string]struct {
		none, gated, notWeft bool
		subresource          []string
		patch                string
		want                 string
	}{
		"another label":                {patch: `{"metadata":{"labels":{"app":"x"}}}`},
		"the same":                     {patch: label(`"a"`)},
		"another gang":                 {patch: label(`"b"`), want: fmt.Sprintf(fixed, `"a"`, `"b"`)},
		"another gang by the status":   {patch: label(`"b"`), subresource: []string{"status"}, want: fmt.Sprintf(fixed, `"a"`, `"b"`)},
		"no gang":                      {patch: label(`null`), want: fmt.Sprintf(fixed, `"a"`, `none`)},
		"an empty name":                {patch: label(`""`), want: fmt.Sprintf(fixed, `"a"`, `""`)},
		"a gang for the first time":    {none: true, patch: label(`"b"`), want: fmt.Sprintf(fixed, `none`, `"b"`)},
		"another gang, behind a gate":  {gated: true, patch: label(`"b"`)},
		"another gang, not Weft's pod": {notWeft: true, patch: label(`"b"`)},
	} {
		t.Run(name, func(t *testing.T) {
			pods := clientset(t, cp.AdminConfig()).CoreV1().Pods("default")
			pod := member("a", "")
			pod.GenerateName = "member-"
			if c.none {
				pod.Labels = nil
			}
			if c.gated {
				pod.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}}
			}
			if c.notWeft {
				pod.Spec.SchedulerName = ""
			}
			pod, err := pods.Create(t.Context(), pod, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = pods.Patch(t.Context(), pod.Name, types.MergePatchType, []byte(c.patch), metav1.PatchOptions{}, c.subresource...)
			if got := denial(err, "gang-members.weft.sh"); got != c.want || c.want == "" && err != nil {
				t.Errorf("denied with\n%s\nwant\n%s\nfull answer: %v", got, c.want, err)
			}
		})
	}
}

// testTimes tries what pods say of their own time.
func testTimes(t *testing.T, cp *playground.ControlPlane) {
	wantRuntime := `annotation weft.sh/runtime is how long the pod is expected to run: want a duration of more than 0, such as 90m or 6h, found `
	wantTime := `annotation weft.sh/checkpointed-at is when the work of the pod was last saved: want a time in RFC 3339, such as 2026-11-21T16:07:04Z, found `
	for name, c := range map[string]struct{ key, value, want string }{
		"six hours":               {podspec.AnnotationRuntime, "6h", ""},
		"of several units":        {podspec.AnnotationRuntime, "1h30m0.5s", ""},
		"no unit":                 {podspec.AnnotationRuntime, "3600", wantRuntime + `"3600"`},
		"days, which Go has not":  {podspec.AnnotationRuntime, "2d", wantRuntime + `"2d"`},
		"no time":                 {podspec.AnnotationRuntime, "0h", wantRuntime + `"0h"`},
		"less than no time":       {podspec.AnnotationRuntime, "-1h", wantRuntime + `"-1h"`},
		"empty":                   {podspec.AnnotationRuntime, "", wantRuntime + `""`},
		"a checkpoint":            {podspec.AnnotationCheckpointedAt, "2026-11-21T16:07:04Z", ""},
		"a checkpoint in a zone":  {podspec.AnnotationCheckpointedAt, "2026-11-21T16:07:04.5+01:00", ""},
		"a checkpoint in seconds": {podspec.AnnotationCheckpointedAt, "1763741224", wantTime + `"1763741224"`},
		"a day":                   {podspec.AnnotationCheckpointedAt, "2026-11-21", wantTime + `"2026-11-21"`},
	} {
		t.Run(name, func(t *testing.T) {
			pods := clientset(t, cp.AdminConfig()).CoreV1().Pods("default")
			dryRun := []string{metav1.DryRunAll}
			created, err := pods.Create(t.Context(), manifestPod(map[string]string{c.key: c.value}, limits("main")), metav1.CreateOptions{DryRun: dryRun})
			if got := denial(err, "pod-times.weft.sh"); got != c.want || c.want == "" && err != nil {
				t.Errorf("denied with\n%s\nwant\n%s\nfull answer: %v", got, c.want, err)
			}
			if err == nil {
				_, _, errRuntime := podspec.Runtime(created)
				_, _, errCheckpoint := podspec.CheckpointedAt(created)
				if err := errors.Join(errRuntime, errCheckpoint); err != nil {
					t.Errorf("admitted, but the scheduler cannot read it: %v", err)
				}
			}
			pod, err := pods.Create(t.Context(), manifestPod(nil, limits("main")), metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = pods.Patch(t.Context(), pod.Name, types.MergePatchType,
				fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, c.key, c.value), metav1.PatchOptions{})
			if got := denial(err, "pod-times.weft.sh"); got != c.want || c.want == "" && err != nil {
				t.Errorf("a change is denied with\n%s\nwant\n%s\nfull answer: %v", got, c.want, err)
			}
		})
	}
}

// The definition of PodGroup is installed after the tracker has started, and everything that comes after it is seen.
func TestPodGroupsThatAreDefinedLater(t *testing.T) {
	cp := startControlPlane(t, playground.ControlPlaneOptions{})
	cfg := cp.AdminConfig()
	client := clientset(t, cfg)
	reader, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	tracker, err := podgroup.NewTracker(podgroup.TrackerOptions{Pods: factory, CRD: reader})
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan gang.Key, 1000)
	tracker.OnChange(func(k gang.Key) { heard <- k })
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(factory.Shutdown)
	t.Cleanup(cancel)
	factory.Start(ctx.Done())
	tracker.Start(ctx)
	syncCtx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	if err := tracker.WaitForSync(syncCtx); err != nil {
		t.Fatalf("without the definition: %v", err)
	}

	key := gang.Key{Source: gang.SourceCRD, Namespace: "default", Name: "train"}
	awaitChange := func(what string, done func() bool) {
		t.Helper()
		deadline := time.After(time.Minute)
		for !done() {
			select {
			case k := <-heard:
				if k != key {
					t.Fatalf("%s: told of %v", what, k)
				}
			case <-deadline:
				t.Fatalf("%s: not seen", what)
			}
		}
	}
	for i := range 3 {
		if _, err := client.CoreV1().Pods("default").Create(t.Context(), member("train", fmt.Sprintf("train-%d", i)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	awaitChange("three pods", func() bool { return len(tracker.Members(key)) == 3 })
	if _, err := tracker.Spec(key); !errors.Is(err, podgroup.ErrNotFound) {
		t.Fatalf("without the definition: %v", err)
	}

	objects := manifestObjects(t)
	if err := playground.Apply(t.Context(), cfg, objects); err != nil {
		t.Fatal(err)
	}
	groups := podGroups(t, cfg)
	if _, err := groups.Create(t.Context(), podGroup("train", 3, nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err) // playground.Apply returns when the definition is established
	}
	spec := func() gang.Spec {
		s, err := tracker.Spec(key)
		if err != nil && !errors.Is(err, podgroup.ErrNotFound) {
			t.Fatal(err)
		}
		return s
	}
	awaitChange("the group", func() bool { return spec().Min == 3 })
	if _, err := groups.Patch(t.Context(), "train", types.MergePatchType,
		[]byte(`{"metadata":{"annotations":{"weft.sh/topology-required":"nvlink"}},"spec":{"minMember":2}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitChange("another minimum", func() bool { return spec().Min == 2 && spec().Required == gang.LevelNVLink })

	// The group goes, its pods stay.
	if err := groups.Delete(t.Context(), "train", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitChange("no group", func() bool { _, err := tracker.Spec(key); return errors.Is(err, podgroup.ErrNotFound) })
	if got := len(tracker.Members(key)); got != 3 {
		t.Errorf("%d members of the deleted group: want 3", got)
	}
	if err := client.CoreV1().Pods("default").Delete(t.Context(), "train-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitChange("two pods", func() bool { return len(tracker.Members(key)) == 2 })
}

// The PodGroups of Kubernetes itself, on an API server that has them.
func TestNativePodGroups(t *testing.T) {
	cp := startControlPlane(t, playground.ControlPlaneOptions{APIServerArgs: []string{
		"--runtime-config=scheduling.k8s.io/v1beta1=true", "--feature-gates=GenericWorkload=true,TopologyAwareWorkloadScheduling=true",
	}})
	applyManifests(t, cp)
	t.Run("policies compile against the types", func(t *testing.T) { testPolicyTypes(t, cp) })
	client := clientset(t, cp.AdminConfig())
	groups := client.SchedulingV1beta1().PodGroups("default")

	native := func(name string, annotations map[string]string) *schedulingv1beta1.PodGroup {
		pg := &schedulingv1beta1.PodGroup{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}}
		pg.Spec.SchedulingPolicy.Gang = &schedulingv1beta1.GangSchedulingPolicy{MinCount: 2}
		pg.Spec.SchedulingConstraints = &schedulingv1beta1.PodGroupSchedulingConstraints{
			Topology: []schedulingv1beta1.TopologyConstraint{{Key: "topology.kubernetes.io/rack"}},
		}
		return pg
	}
	_, err := groups.Create(t.Context(), native("bad", map[string]string{podspec.AnnotationPartialGrace: "soon"}), metav1.CreateOptions{})
	const want = `annotation weft.sh/partial-grace is how long fewer than minMember pods of the group may be bound: want a duration of 0 or more, such as 30s, found "soon"`
	if got := denial(err, "pod-groups.weft.sh"); got != want {
		t.Errorf("denied with\n%s\nwant\n%s\nfull answer: %v", got, want, err)
	}

	if _, err := groups.Create(t.Context(), native("train", map[string]string{podspec.AnnotationTopologyPreferred: "nvlink"}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		p := member("ignored", fmt.Sprintf("train-%d", i)) // the label of a pod that names a native group is only a label
		p.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{PodGroupName: new("train")}
		if _, err := client.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	tracker, err := podgroup.NewTracker(podgroup.TrackerOptions{Pods: factory, Native: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(factory.Shutdown)
	t.Cleanup(cancel)
	factory.Start(ctx.Done())
	tracker.Start(ctx)
	if err := tracker.WaitForSync(ctx); err != nil {
		t.Fatal(err)
	}
	key := gang.Key{Source: gang.SourceNative, Namespace: "default", Name: "train"}
	s, err := tracker.Spec(key)
	if err != nil || s.Min != 2 || s.Required != "topology.kubernetes.io/rack" || s.Preferred != gang.LevelNVLink || s.Lost != gang.LostReplace {
		t.Errorf("%+v, %v", s, err)
	}
	if got := len(tracker.Members(key)); got != 2 {
		t.Errorf("%d members: want 2", got)
	}
}
