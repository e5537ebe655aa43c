package integration

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/client-go/kubernetes"

	"weft.sh/weft/manifests"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
)

// The releases that the manifests are for: the oldest and the newest. The API server emulates the older, with the
// admission library of that time.
var manifestReleases = []struct {
	name string
	args []string
}{
	{name: "1.37"},
	{name: "1.34", args: []string{"--emulated-version=1.34"}},
}

func TestManifests(t *testing.T) {
	for _, release := range manifestReleases {
		t.Run(release.name, func(t *testing.T) {
			cp := startControlPlane(t, playground.ControlPlaneOptions{APIServerArgs: release.args})
			objects := applyManifests(t, cp)
			t.Run("applying again changes nothing", func(t *testing.T) { applyManifests(t, cp) })
			t.Run("policies compile against the types", func(t *testing.T) { testPolicyTypes(t, cp) })
			t.Run("the scheduler's pods are admitted", func(t *testing.T) {
				admitted(t, cp, find[appsv1.Deployment](t, objects, "Deployment", "weft-scheduler"))
			})
			t.Run("the pods of the node are admitted", func(t *testing.T) { testNodePods(t, cp) })
			t.Run("rights", func(t *testing.T) { testRights(t, cp) })
			t.Run("rights of the node agent", func(t *testing.T) { testNodeRights(t, cp) })
			t.Run("the node agent writes of its own node only", func(t *testing.T) { testNodeWrites(t, cp) })
			t.Run("examples", func(t *testing.T) { testExamples(t, cp) })
			t.Run("requests", func(t *testing.T) { testRequests(t, cp) })
			t.Run("requests that change", func(t *testing.T) { testRequestUpdates(t, cp) })
			t.Run("assignment", func(t *testing.T) { testAssignment(t, cp) })
			t.Run("times", func(t *testing.T) { testTimes(t, cp) })
			t.Run("gang members", func(t *testing.T) { testGangMembers(t, cp) })
			t.Run("PodGroups", func(t *testing.T) { testPodGroups(t, cp) })
			t.Run("configuration", func(t *testing.T) {
				testSchedulerConfig(t, cp, find[corev1.ConfigMap](t, objects, "ConfigMap", "weft-scheduler-config"))
			})
		})
	}
}

// TestManifestNames checks what has to be the same in several places of the manifests and of the code.
func TestManifestNames(t *testing.T) {
	objects := manifestObjects(t)

	deployment := find[appsv1.Deployment](t, objects, "Deployment", "weft-scheduler")
	config := find[corev1.ConfigMap](t, objects, "ConfigMap", "weft-scheduler-config")
	if got := deployment.Spec.Template.Spec.Volumes[0].ConfigMap.Name; got != config.Name {
		t.Errorf("the Deployment mounts ConfigMap %q, the ConfigMap is %q", got, config.Name)
	}
	raw, err := fs.ReadFile(manifests.FS, manifests.SchedulerConfig)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"config.yaml": string(raw)}, config.Data); diff != "" {
		t.Errorf("configuration in the ConfigMap (-file +ConfigMap):\n%s", diff)
	}

	account := "system:serviceaccount:" + deployment.Namespace + ":" + deployment.Spec.Template.Spec.ServiceAccountName
	if account != playground.SchedulerUser {
		t.Errorf("the Deployment runs as %s, the playground's scheduler as %s", account, playground.SchedulerUser)
	}
	policy := find[admissionv1.ValidatingAdmissionPolicy](t, objects, "ValidatingAdmissionPolicy", "gpu-assignment.weft.sh")
	if got := variable(t, policy, "isScheduler"); !strings.Contains(got, "'"+account+"'") {
		t.Errorf("the policy lets somebody else than %s assign GPUs: %s", account, got)
	}

	requests := find[admissionv1.ValidatingAdmissionPolicy](t, objects, "ValidatingAdmissionPolicy", "gpu-requests.weft.sh")
	known := variable(t, requests, "profiles")
	for _, profile := range mig.Profiles() {
		name := strings.TrimPrefix(podspec.MIGResource(profile), podspec.ResourceMIGPrefix)
		if !strings.Contains(known, "'"+name+"'") {
			t.Errorf("MIG profile %s is in pkg/mig and not among the policy's known profiles", name)
		}
	}
}

func variable(t *testing.T, policy *admissionv1.ValidatingAdmissionPolicy, name string) string {
	t.Helper()
	for _, v := range policy.Spec.Variables {
		if v.Name == name {
			return v.Expression
		}
	}
	t.Fatalf("policy %s has no variable %q", policy.Name, name)
	return ""
}

// testPolicyTypes does what the controller manager does in a cluster, where the result stands in the policy's status and
// nobody looks: it compiles the expressions against the types of the resources.
func testPolicyTypes(t *testing.T, cp *playground.ControlPlane) {
	client := clientset(t, cp.AdminConfig())
	checker := validating.TypeChecker{
		SchemaResolver: &resolver.ClientDiscoveryResolver{Discovery: client.Discovery()},
		RestMapper:     newApplier(t, cp.AdminConfig()).mapper,
	}
	list, err := client.AdmissionregistrationV1().ValidatingAdmissionPolicies().List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) == 0 {
		t.Fatalf("policies: %d, %v", len(list.Items), err)
	}
	for i := range list.Items {
		for _, w := range checker.Check(&list.Items[i]) {
			t.Errorf("policy %s, %s: %s", list.Items[i].Name, w.FieldRef, w.Warning)
		}
	}
}

// admitted is the pod that the Deployment would make: it has to pass the namespace's security level, and its priority class has
// to exist.
func admitted(t *testing.T, cp *playground.ControlPlane, d *appsv1.Deployment) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: d.Spec.Template.ObjectMeta, Spec: d.Spec.Template.Spec}
	pod.GenerateName = d.Name + "-"
	dryRun := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	if _, err := clientset(t, cp.AdminConfig()).CoreV1().Pods(d.Namespace).Create(t.Context(), pod, dryRun); err != nil {
		t.Error(err)
	}
	return pod
}

type right struct{ verb, group, resource, subresource, namespace, name string }

// rights checks that the service account has the first rights and none of the others.
func rights(t *testing.T, cp *playground.ControlPlane, namespace, account string, has, hasNot []right) {
	t.Helper()
	reviews := clientset(t, cp.AdminConfig()).AuthorizationV1().SubjectAccessReviews()
	for i, r := range slices.Concat(has, hasNot) {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User:   "system:serviceaccount:" + namespace + ":" + account,
			Groups: []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: r.verb, Group: r.group, Resource: r.resource, Subresource: r.subresource, Namespace: r.namespace, Name: r.name,
			},
		}}
		out, err := reviews.Create(t.Context(), review, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if want := i < len(has); out.Status.Allowed != want {
			t.Errorf("%s has the right %+v: %v, want %v", account, r, out.Status.Allowed, want)
		}
	}
}

func testRights(t *testing.T, cp *playground.ControlPlane) {
	rights(t, cp, "weft-system", "weft-scheduler", []right{
		{"watch", "", "pods", "", "", ""},
		{"watch", "", "nodes", "", "", ""},
		{"create", "", "pods", "binding", "team", "a"},
		{"patch", "", "pods", "status", "team", "a"},
		{"delete", "", "pods", "", "team", "a"},
		{"update", "", "persistentvolumeclaims", "", "team", "a"},
		{"watch", "resource.k8s.io", "resourceslices", "", "", ""},
		{"update", "resource.k8s.io", "resourceclaims", "status", "team", "a"},
		{"watch", "scheduling.k8s.io", "podgroups", "", "", ""},
		{"create", "events.k8s.io", "events", "", "team", ""},
		{"create", "coordination.k8s.io", "leases", "", "weft-system", ""},
		{"update", "coordination.k8s.io", "leases", "", "weft-system", "weft-scheduler"},
		{"get", "", "configmaps", "", "weft-system", "weft-scheduler-claims"},
		{"update", "", "configmaps", "", "weft-system", "weft-scheduler-claims"},
		{"create", "authentication.k8s.io", "tokenreviews", "", "", ""},
		{"create", "authorization.k8s.io", "subjectaccessreviews", "", "", ""},
		{"get", "", "configmaps", "", "kube-system", "extension-apiserver-authentication"},
	}, []right{
		{"update", "", "pods", "", "team", "a"},
		{"patch", "", "pods", "", "team", "a"},
		{"create", "", "pods", "", "team", ""},
		{"create", "", "pods", "exec", "team", "a"},
		{"create", "", "pods", "eviction", "team", "a"},
		{"update", "", "pods", "status", "team", "a"},
		{"get", "", "secrets", "", "weft-system", "a"},
		{"list", "", "secrets", "", "", ""},
		{"get", "", "configmaps", "", "kube-system", "kubeadm-config"},
		{"list", "", "configmaps", "", "team", ""},
		{"patch", "", "nodes", "", "", "n"},
		{"delete", "", "nodes", "", "", "n"},
		{"create", "", "configmaps", "", "weft-system", ""},
		{"update", "", "configmaps", "", "weft-system", "weft-scheduler-config"},
		{"update", "", "configmaps", "", "kube-system", "weft-scheduler-claims"},
		{"create", "coordination.k8s.io", "leases", "", "kube-system", ""},
		{"update", "coordination.k8s.io", "leases", "", "kube-system", "kube-scheduler"},
		{"update", "coordination.k8s.io", "leases", "", "weft-system", "weft-controller"},
		{"create", "", "serviceaccounts", "token", "weft-system", "weft-scheduler"},
		{"impersonate", "", "users", "", "", "admin"},
		{"update", "admissionregistration.k8s.io", "validatingadmissionpolicies", "", "", "gpu-assignment.weft.sh"},
	})
}

func testExamples(t *testing.T, cp *playground.ControlPlane) {
	a := newApplier(t, cp.AdminConfig())
	for name, objects := range exampleObjects(t) {
		for _, u := range objects {
			if err := a.apply(t.Context(), u); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			for _, w := range a.warnings.take() {
				t.Errorf("%s: the API server warns: %s", name, w)
			}
			if u.GetKind() != "Pod" {
				continue
			}
			var pod corev1.Pod
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &pod); err != nil {
				t.Fatal(err)
			}
			if pod.Spec.SchedulerName != "weft" {
				t.Errorf("%s: pod %s: schedulerName %q: want weft", name, pod.Name, pod.Spec.SchedulerName)
			}
			if _, err := podspec.PendingRequest(&pod); err != nil {
				t.Errorf("%s: pod %s: %v", name, pod.Name, err)
			}
		}
	}
}

// limits is a container with limits, which requests default to.
func limits(name string, pairs ...string) corev1.Container {
	c := corev1.Container{Name: name, Image: "none", Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{}}}
	for i := 0; i < len(pairs); i += 2 {
		c.Resources.Limits[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return c
}

// manifestPod is a pod for the scheduler weft.
func manifestPod(annotations map[string]string, containers ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "pod-", Annotations: annotations},
		Spec:       corev1.PodSpec{SchedulerName: "weft", Containers: containers},
	}
}

func testRequests(t *testing.T, cp *playground.ControlPlane) {
	const (
		percent = podspec.ResourceGPUPercent
		whole   = podspec.ResourceGPU
		mig1g   = podspec.ResourceMIGPrefix + "1g.10gb"

		wantPercent = "weft.sh/gpu-percent is the share of one GPU in hundredths: want a whole number from 1 to 100; " +
			"container main has %s (for more than one GPU use nvidia.com/gpu, or the annotation weft.sh/gpu-count)"
		wantOne = "a container asks either for a share of a GPU (weft.sh/gpu-percent) or for nvidia.com/gpu or " +
			"nvidia.com/mig-<profile>, not both: remove one of them from container %s"
		wantCount = "annotation weft.sh/gpu-count is the number of GPUs that each share is taken from: " +
			"want a whole number from 1 to 64, found %q"
		wantShare = "annotation weft.sh/gpu-count needs a container with the limit weft.sh/gpu-percent, the share of each GPU: " +
			"add it, or ask for whole GPUs with nvidia.com/gpu and remove the annotation"
		wantMemory = "annotation weft.sh/gpu-memory is the least memory of each GPU or share, in bytes: " +
			"want a quantity from 1Mi to 1Pi, such as 10Gi, found %q"
		wantGPU = "annotation weft.sh/gpu-memory needs a container with the limit weft.sh/gpu-percent or nvidia.com/gpu: " +
			"add it, or remove the annotation (a MIG profile names its memory itself)"
		wantProfile = "no GPU has the MIG profile: container main has nvidia.com/mig-%s; "
		wantLimit   = "unknown limit: container main has %s; want weft.sh/gpu-percent for a share of a GPU (the only one under " +
			"weft.sh/), nvidia.com/gpu for whole GPUs, or nvidia.com/mig-<profile> for MIG instances"
		wantWhole      = "nvidia.com/gpu is the number of whole GPUs of one node: want a whole number from 0 to 64; container main has %s"
		wantAnnotation = "unknown annotation %s; known ones are weft.sh/gpu-count, weft.sh/gpu-memory, weft.sh/runtime, " +
			"weft.sh/checkpointed-at, and weft.sh/gpus, which the scheduler sets"
	)
	count := func(v string) map[string]string { return map[string]string{podspec.AnnotationGPUCount: v} }
	note := func(key string) map[string]string { return map[string]string{key: "1h"} }
	memory := func(v string) map[string]string { return map[string]string{podspec.AnnotationGPUMemory: v} }
	for name, c := range map[string]struct {
		pod *corev1.Pod
		// denied begins what the policy says, refused is contained in what the API server's own validation says, which
		// comes first. With neither the pod is admitted.
		denied, refused string
		// whole says that denied is all that the policy says.
		whole bool
		// notWeft is for pods of another scheduler.
		notWeft bool
	}{
		"one percent":                         {pod: manifestPod(nil, limits("main", percent, "1"))},
		"all of a GPU":                        {pod: manifestPod(nil, limits("main", percent, "100"))},
		"an exponent is a number":             {pod: manifestPod(nil, limits("main", percent, "1e2"))},
		"0 percent":                           {pod: manifestPod(nil, limits("main", percent, "0")), denied: fmt.Sprintf(wantPercent, "0")},
		"more than a GPU":                     {pod: manifestPod(nil, limits("main", percent, "101")), denied: fmt.Sprintf(wantPercent, "101")},
		"a suffix is read":                    {pod: manifestPod(nil, limits("main", percent, "1k")), denied: fmt.Sprintf(wantPercent, "1k")},
		"more than an int64":                  {pod: manifestPod(nil, limits("main", percent, "1e30")), denied: fmt.Sprintf(wantPercent, "1e30")},
		"of another scheduler too":            {pod: manifestPod(nil, limits("main", percent, "101")), notWeft: true, denied: fmt.Sprintf(wantPercent, "101")},
		"a fraction of a percent":             {pod: manifestPod(nil, limits("main", percent, "1.5")), refused: `limits[weft.sh/gpu-percent]: Invalid value: "1500m": must be an integer`},
		"less than nothing":                   {pod: manifestPod(nil, limits("main", percent, "-5")), refused: `limits[weft.sh/gpu-percent]: Invalid value: "-5": must be greater than or equal to 0`},
		"a share beside a GPU":                {pod: manifestPod(nil, limits("main", percent, "25", whole, "1")), denied: fmt.Sprintf(wantOne, "main")},
		"a share beside an instance":          {pod: manifestPod(nil, limits("main", percent, "25", mig1g, "1")), denied: fmt.Sprintf(wantOne, "main")},
		"a share beside zero GPUs":            {pod: manifestPod(nil, limits("main", percent, "25", whole, "0"))},
		"a share and a GPU in two containers": {pod: manifestPod(nil, limits("a", percent, "25"), limits("b", whole, "1"))},

		"a share on 64 GPUs":            {pod: manifestPod(count("64"), limits("main", percent, "25"))},
		"a share on 0 GPUs":             {pod: manifestPod(count("0"), limits("main", percent, "25")), denied: fmt.Sprintf(wantCount, "0")},
		"a share on 65 GPUs":            {pod: manifestPod(count("65"), limits("main", percent, "25")), denied: fmt.Sprintf(wantCount, "65")},
		"a share on -1 GPUs":            {pod: manifestPod(count("-1"), limits("main", percent, "25")), denied: fmt.Sprintf(wantCount, "-1")},
		"a share on 1.5 GPUs":           {pod: manifestPod(count("1.5"), limits("main", percent, "25")), denied: fmt.Sprintf(wantCount, "1.5")},
		"a share on two GPUs, in words": {pod: manifestPod(count("two"), limits("main", percent, "25")), denied: fmt.Sprintf(wantCount, "two")},
		"a count that is empty":         {pod: manifestPod(count(""), limits("main", percent, "25")), denied: fmt.Sprintf(wantCount, "")},
		"a count with a line break":     {pod: manifestPod(count("2\n"), limits("main", percent, "25")), denied: "annotation weft.sh/gpu-count: want a whole number from 1 to 64"},
		"a count of whole GPUs":         {pod: manifestPod(count("2"), limits("main", whole, "2")), denied: wantShare},
		"a count of nothing":            {pod: manifestPod(count("2"), limits("main")), denied: wantShare},
		"a count, other scheduler":      {pod: manifestPod(count("2"), limits("main")), notWeft: true, denied: wantShare},

		"a floor for a share":         {pod: manifestPod(memory("10Gi"), limits("main", percent, "25"))},
		"a floor for whole GPUs":      {pod: manifestPod(memory("80G"), limits("main", whole, "1"))},
		"a floor of nothing":          {pod: manifestPod(memory("0"), limits("main", percent, "25")), denied: fmt.Sprintf(wantMemory, "0")},
		"a floor below nothing":       {pod: manifestPod(memory("-1Gi"), limits("main", percent, "25")), denied: fmt.Sprintf(wantMemory, "-1Gi")},
		"a floor in words":            {pod: manifestPod(memory("lots"), limits("main", percent, "25")), denied: fmt.Sprintf(wantMemory, "lots")},
		"a floor in no unit we know":  {pod: manifestPod(memory("10GB"), limits("main", percent, "25")), denied: fmt.Sprintf(wantMemory, "10GB")},
		"a floor without its unit":    {pod: manifestPod(memory("10"), limits("main", percent, "25")), denied: fmt.Sprintf(wantMemory, "10")},
		"a floor of half a byte more": {pod: manifestPod(memory("1048576500m"), limits("main", percent, "25")), denied: fmt.Sprintf(wantMemory, "1048576500m")},
		"a floor nobody can mean":     {pod: manifestPod(memory("2Pi"), limits("main", percent, "25")), denied: fmt.Sprintf(wantMemory, "2Pi")},
		"a floor that is too long to repeat": {
			pod:    manifestPod(memory(strings.Repeat("9", 6000)+"X"), limits("main", percent, "25")),
			denied: "annotation weft.sh/gpu-memory: want a quantity from 1Mi to 1Pi, such as 10Gi",
		},
		"a floor for an instance":   {pod: manifestPod(memory("10Gi"), limits("main", mig1g, "1")), denied: wantGPU},
		"a floor for zero GPUs":     {pod: manifestPod(memory("10Gi"), limits("main", whole, "0")), denied: wantGPU},
		"a floor for nothing asked": {pod: manifestPod(memory("10Gi"), limits("main")), denied: wantGPU},

		"a MIG instance":           {pod: manifestPod(nil, limits("main", mig1g, "1"))},
		"with media extensions":    {pod: manifestPod(nil, limits("main", mig1g+".me", "1"))},
		"without media extensions": {pod: manifestPod(nil, limits("main", podspec.ResourceMIGPrefix+"1g.24gb-me", "1"))},
		"GPUs and instances":       {pod: manifestPod(nil, limits("main", mig1g, "1", whole, "1"))},
		"a profile that no GPU has": {
			pod: manifestPod(nil, limits("main", podspec.ResourceMIGPrefix+"3g.41gb", "1")),
			denied: fmt.Sprintf(wantProfile, "3g.41gb") + "known profiles with as many compute slices are " +
				"3g.20gb 3g.40gb 3g.47gb 3g.48gb 3g.71gb 3g.72gb 3g.90gb 3g.93gb 3g.95gb 3g.135gb 3g.139gb",
			whole: true,
		},
		"no profile at all": {
			pod: manifestPod(nil, limits("main", podspec.ResourceMIGPrefix+"small", "1")),
			denied: fmt.Sprintf(wantProfile, "small") +
				"want <compute slices>g.<memory>gb with 1, 2, 3, 4 or 7 compute slices, such as 1g.10gb",
			whole: true,
		},
		"two profiles that no GPU has": {
			pod: manifestPod(nil, limits("main", podspec.ResourceMIGPrefix+"7g.1gb", "1"), limits("b", podspec.ResourceMIGPrefix+"9g.1gb", "1")),
			denied: fmt.Sprintf(wantProfile, "7g.1gb, b has nvidia.com/mig-9g.1gb") + "known profiles with as many compute slices are " +
				"7g.40gb 7g.80gb 7g.94gb 7g.96gb 7g.141gb 7g.144gb 7g.180gb 7g.186gb 7g.189gb 7g.269gb 7g.278gb",
			whole: true,
		},
		"a profile of another scheduler": {pod: manifestPod(nil, limits("main", podspec.ResourceMIGPrefix+"1g.11gb", "1")), notWeft: true},

		"a percentage":                    {pod: manifestPod(nil, limits("main", "weft.sh/gpu-percentage", "25")), denied: fmt.Sprintf(wantLimit, "weft.sh/gpu-percentage"), whole: true},
		"a GPU of ours":                   {pod: manifestPod(nil, limits("main", "weft.sh/gpu", "1")), denied: fmt.Sprintf(wantLimit, "weft.sh/gpu"), whole: true},
		"a percentage of another":         {pod: manifestPod(nil, limits("main", "weft.sh/gpu-percentage", "25")), notWeft: true},
		"a limit of somebody else":        {pod: manifestPod(nil, limits("main", "example.com/weft.sh", "25"))},
		"64 whole GPUs":                   {pod: manifestPod(nil, limits("main", whole, "64"))},
		"65 whole GPUs":                   {pod: manifestPod(nil, limits("main", whole, "65")), denied: fmt.Sprintf(wantWhole, "65"), whole: true},
		"a thousand whole GPUs":           {pod: manifestPod(nil, limits("main", whole, "1k")), denied: fmt.Sprintf(wantWhole, "1k"), whole: true},
		"65 whole GPUs, other scheduler":  {pod: manifestPod(nil, limits("main", whole, "65")), notWeft: true},
		"an annotation that is misspelt":  {pod: manifestPod(note("weft.sh/gpu-mem"), limits("main", percent, "25")), denied: fmt.Sprintf(wantAnnotation, "weft.sh/gpu-mem"), whole: true},
		"a limit as an annotation":        {pod: manifestPod(note("weft.sh/gpu-percent"), limits("main")), denied: fmt.Sprintf(wantAnnotation, "weft.sh/gpu-percent"), whole: true},
		"an annotation of somebody else":  {pod: manifestPod(note("example.com/gpu-mem"), limits("main", percent, "25"))},
		"a misspelt one, other scheduler": {pod: manifestPod(note("weft.sh/gpu-mem"), limits("main")), notWeft: true},
		"an expected duration":            {pod: manifestPod(note("weft.sh/runtime"), limits("main", percent, "25"))},
		"a topology, which a group has":   {pod: manifestPod(note("weft.sh/topology-required"), limits("main", percent, "25")), denied: fmt.Sprintf(wantAnnotation, "weft.sh/topology-required"), whole: true},

		"nothing asked": {pod: manifestPod(nil, limits("main"))},
		"many containers": {pod: manifestPod(count("2"), func() (cs []corev1.Container) {
			for i := range 1000 {
				cs = append(cs, limits(fmt.Sprintf("c%d", i), percent, "1"))
			}
			return cs
		}()...)},
	} {
		t.Run(name, func(t *testing.T) {
			// An init container has to be read in the same way, so every case is one of each.
			asInit := c.pod.DeepCopy()
			asInit.Spec.InitContainers, asInit.Spec.Containers = asInit.Spec.Containers, []corev1.Container{limits("other")}
			for _, pod := range []*corev1.Pod{c.pod, asInit} {
				if c.notWeft {
					pod.Spec.SchedulerName = ""
				}
				created, err := clientset(t, cp.AdminConfig()).CoreV1().Pods("default").
					Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
				switch {
				case c.denied != "":
					if got := denial(err, "gpu-requests.weft.sh"); !strings.HasPrefix(got, c.denied) || c.whole && got != c.denied {
						t.Errorf("denied with\n%s\nwant\n%s\nfull answer: %v", got, c.denied, err)
					}
				case c.refused != "":
					if err == nil || !strings.Contains(err.Error(), c.refused) {
						t.Errorf("refused with\n%v\nwant\n%s", err, c.refused)
					}
				case err != nil:
					t.Errorf("refused: %v", err)
				case !c.notWeft:
					// What is admitted has to have a meaning, or the pod waits with an error that its author could have had here.
					if _, err := podspec.PendingRequest(created); err != nil {
						t.Errorf("admitted, but the scheduler cannot read it: %v", err)
					}
				}
			}
		})
	}
}

func testRequestUpdates(t *testing.T, cp *playground.ControlPlane) {
	const fixed = "the annotations weft.sh/gpu-count and weft.sh/gpu-memory are part of what the pod asks for and, like its " +
		"limits, cannot change once it may be scheduled: delete the pod and create it again"
	share := limits("main", podspec.ResourceGPUPercent, "25")
	for name, c := range map[string]struct {
		gated       bool
		subresource []string
		patch       string
		want        string
	}{
		"another annotation":          {patch: `{"metadata":{"annotations":{"note":"x"}}}`},
		"another count":               {patch: `{"metadata":{"annotations":{"weft.sh/gpu-count":"3"}}}`, want: fixed},
		"no count":                    {patch: `{"metadata":{"annotations":{"weft.sh/gpu-count":null}}}`, want: fixed},
		"a floor":                     {patch: `{"metadata":{"annotations":{"weft.sh/gpu-memory":"1Gi"}}}`, want: fixed},
		"another count by the status": {patch: `{"metadata":{"annotations":{"weft.sh/gpu-count":"3"}}}`, subresource: []string{"status"}, want: fixed},
		"another count behind a gate": {gated: true, patch: `{"metadata":{"annotations":{"weft.sh/gpu-count":"3"}}}`},
		"the gate goes with it":       {gated: true, patch: `{"metadata":{"annotations":{"weft.sh/gpu-count":"3"}},"spec":{"schedulingGates":null}}`},
		"a bad count behind a gate": {
			gated: true, patch: `{"metadata":{"annotations":{"weft.sh/gpu-count":"99"}}}`,
			want: "annotation weft.sh/gpu-count is the number of GPUs that each share is taken from: want a whole number from 1 to 64, found \"99\"",
		},
	} {
		t.Run(name, func(t *testing.T) {
			pods := clientset(t, cp.AdminConfig()).CoreV1().Pods("default")
			pod := manifestPod(map[string]string{podspec.AnnotationGPUCount: "2"}, share)
			if c.gated {
				pod.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}}
			}
			pod, err := pods.Create(t.Context(), pod, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			_, err = pods.Patch(t.Context(), pod.Name, types.MergePatchType, []byte(c.patch), metav1.PatchOptions{}, c.subresource...)
			if got := denial(err, "gpu-requests.weft.sh"); got != c.want || c.want == "" && err != nil {
				t.Errorf("denied with\n%s\nwant\n%s\nfull answer: %v", got, c.want, err)
			}
		})
	}
}

// testAssignment tries every way to write weft.sh/gpus, as somebody who may do everything else.
func testAssignment(t *testing.T, cp *playground.ControlPlane) {
	const (
		policy = "gpu-assignment.weft.sh"
		only   = "the annotation weft.sh/gpus is set by the scheduler weft only: "
		create = only + "create the pod without it, and ask for GPUs with the limits nvidia.com/gpu, " +
			"nvidia.com/mig-<profile> or weft.sh/gpu-percent"
		update = only + "leave it as it is; to get other GPUs, delete the pod and create it again without it"
		bind   = only + "bind without it, or leave the pod to the scheduler weft (schedulerName: weft)"

		mine   = "main=GPU-1:250m/20480Mi"
		theirs = "main=GPU-7"
	)
	ctx := t.Context()
	scheduler := clientset(t, cp.ConfigFor(playground.SchedulerUser))
	admin := clientset(t, cp.AdminConfig())
	other := clientset(t, cp.ConfigFor("system:serviceaccount:weft-system:weft-controller", "system:masters"))
	gpus := func(v string) map[string]string { return map[string]string{podspec.AnnotationGPUs: v} }
	share := limits("main", podspec.ResourceGPUPercent, "25")
	newPod := func(t *testing.T) *corev1.Pod {
		t.Helper()
		pod, err := admin.CoreV1().Pods("default").Create(ctx, manifestPod(nil, share), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return pod
	}
	binding := func(pod *corev1.Pod, annotations map[string]string) *corev1.Binding {
		return &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID, Annotations: annotations},
			Target:     corev1.ObjectReference{Kind: "Node", Name: "node"},
		}
	}
	assigned := func(t *testing.T, pod *corev1.Pod) (string, string) {
		t.Helper()
		pod, err := admin.CoreV1().Pods("default").Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return pod.Annotations[podspec.AnnotationGPUs], pod.Spec.NodeName
	}
	denied := func(t *testing.T, err error, want string) {
		t.Helper()
		if got := denial(err, policy); got != want || !apierrors.IsForbidden(err) {
			t.Errorf("denied with\n%s\nwant\n%s\nfull answer: %v", got, want, err)
		}
	}

	t.Run("only the scheduler's account through a Binding", func(t *testing.T) {
		pod := newPod(t)
		for who, client := range map[string]kubernetes.Interface{"admin": admin, "another account": other} {
			t.Run(who, func(t *testing.T) {
				denied(t, client.CoreV1().Pods("default").Bind(ctx, binding(pod, gpus(theirs)), metav1.CreateOptions{}), bind)
				// The same by the path that clients of long ago use.
				denied(t, client.CoreV1().RESTClient().Post().Namespace("default").Resource("bindings").
					Body(binding(pod, gpus(theirs))).Do(ctx).Error(), bind)
			})
		}
		if err := scheduler.CoreV1().Pods("default").Bind(ctx, binding(pod, gpus(mine)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if got, node := assigned(t, pod); got != mine || node != "node" {
			t.Errorf("assignment %q on node %q: want %q on node", got, node, mine)
		}
	})
	t.Run("a Binding without it is anybody's who may bind", func(t *testing.T) {
		pod := newPod(t)
		if err := other.CoreV1().Pods("default").Bind(ctx, binding(pod, nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("not at creation", func(t *testing.T) {
		for _, v := range []string{theirs, ""} {
			_, err := admin.CoreV1().Pods("default").Create(ctx, manifestPod(gpus(v), share), metav1.CreateOptions{})
			denied(t, err, create)
		}
	})
	t.Run("not later", func(t *testing.T) {
		bound := newPod(t)
		if err := scheduler.CoreV1().Pods("default").Bind(ctx, binding(bound, gpus(mine)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		patch := func(pod *corev1.Pod, value, subresource string) error {
			body := fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, podspec.AnnotationGPUs, value)
			_, err := admin.CoreV1().Pods("default").Patch(ctx, pod.Name, types.MergePatchType, []byte(body), metav1.PatchOptions{},
				slices.DeleteFunc([]string{subresource}, func(s string) bool { return s == "" })...)
			return err
		}
		for _, subresource := range []string{"", "status"} {
			denied(t, patch(bound, `"`+theirs+`"`, subresource), update)
			denied(t, patch(bound, `null`, subresource), update)
			denied(t, patch(bound, `""`, subresource), update)
			denied(t, patch(newPod(t), `"`+theirs+`"`, subresource), update)
			if err := patch(bound, `"`+mine+`"`, subresource); err != nil {
				t.Errorf("written as it is: %v", err)
			}
		}
		// These drop what is not theirs before admission sees it, so there is nothing to deny. What counts is the pod.
		for _, subresource := range []string{"resize", "ephemeralcontainers"} {
			if err := patch(bound, `"`+theirs+`"`, subresource); err != nil {
				denied(t, err, update)
			}
		}
		if got, _ := assigned(t, bound); got != mine {
			t.Errorf("assignment %q: want %q", got, mine)
		}
	})
	t.Run("other changes of a bound pod are free", func(t *testing.T) {
		pod := newPod(t)
		if err := scheduler.CoreV1().Pods("default").Bind(ctx, binding(pod, gpus(mine)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		body := []byte(`{"metadata":{"labels":{"a":"b"},"annotations":{"a":"b"},"finalizers":["example.com/x"]}}`)
		if _, err := admin.CoreV1().Pods("default").Patch(ctx, pod.Name, types.MergePatchType, body, metav1.PatchOptions{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("the scheduler may only bind", func(t *testing.T) {
		pod := newPod(t)
		body := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, podspec.AnnotationGPUs, mine)
		_, err := scheduler.CoreV1().Pods("default").Patch(ctx, pod.Name, types.MergePatchType, body, metav1.PatchOptions{})
		if !apierrors.IsForbidden(err) {
			t.Errorf("patch of a pod by the scheduler: %v, want Forbidden", err)
		}
	})
}
