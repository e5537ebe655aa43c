package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"weft.sh/weft/pkg/cli"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// member creates a pod of the gang in namespace ml that asks for so many GPUs.
func (c *commandLine) member(gang, name string, gpus int64, node, assignment string, change ...func(*corev1.Pod)) {
	c.t.Helper()
	p := c.template(name, podspec.ResourceGPU, gpus)
	p.Labels = map[string]string{podspec.LabelPodGroup: gang}
	p.Spec.NodeName = node
	if assignment != "" {
		p.Annotations = map[string]string{podspec.AnnotationGPUs: assignment}
	}
	for _, f := range change {
		f(p)
	}
	c.create(p)
}

// TestCommandLineOfGangs: what weft says of gangs on an API server that does not know the definition of PodGroup yet, and on one
// that does, for those who may read PodGroups and those who may not.
func TestCommandLineOfGangs(t *testing.T) {
	c := newCommandLine(t, "--runtime-config=scheduling.k8s.io/v1beta1=true", "--feature-gates=GenericWorkload=true")
	c.namespace("ml")
	rack := func(name string) map[string]string { return map[string]string{"topology.kubernetes.io/rack": name} }
	c.node("a1", rack("a"), h100s("a1", 4)...)
	c.node("a2", rack("a"), h100s("a2", 4)...)
	c.node("b1", rack("b"), h100s("b1", 4)...)

	t.Run("without the definition", func(t *testing.T) {
		c := c.in(t)
		c.member("early", "early-0", 1, "", "")
		var a cli.GangAnswer
		decode(t, c.run("why", "-n", "ml", "podgroup/early", "-o", "json"), &a)
		if a.Verdict != cli.VerdictInvalid || a.Reason != "GangNotFound" || a.Counts.Pending != 1 {
			t.Errorf("a gang without a PodGroup: %+v", a)
		}
		var r cli.Report
		decode(t, c.run("top", "-o", "json"), &r)
		if len(r.Gangs) != 1 || !strings.HasPrefix(r.Gangs[0].Problem, "GangNotFound") {
			t.Errorf("gangs without a PodGroup: %+v", r.Gangs)
		}
	})

	// With the policies nobody but the scheduler could.
	c.member("train", "train-0", 4, "a1", "main=GPU-a1-0,GPU-a1-1,GPU-a1-2,GPU-a1-3")
	applyManifests(t, c.cp)
	groups := []playground.Group{
		{Name: "train", MinMember: 2, Required: "topology.kubernetes.io/rack"},
		{Name: "large", MinMember: 3, Required: "topology.kubernetes.io/rack"},
	}
	applier := newApplier(t, c.cp.AdminConfig())
	for _, g := range groups {
		u := g.Object()
		u.SetNamespace("ml")
		if err := applier.apply(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	native := &schedulingv1beta1.PodGroup{
		ObjectMeta: metav1.ObjectMeta{Name: "native"},
		Spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: schedulingv1beta1.PodGroupSchedulingPolicy{
			Gang: &schedulingv1beta1.GangSchedulingPolicy{MinCount: 2},
		}},
	}
	if _, err := c.client.SchedulingV1beta1().PodGroups("ml").Create(t.Context(), native, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.member("train", "train-1", 4, "", "")
	for i := range 3 {
		c.member("large", fmt.Sprintf("large-%d", i), 4, "", "")
	}
	c.member("", "native-0", 1, "", "", func(p *corev1.Pod) {
		p.Labels = nil
		p.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{PodGroupName: new("native")}
	})

	t.Run("the member that is missing goes to its gang's rack", func(t *testing.T) {
		var a cli.GangAnswer
		decode(t, c.in(t).run("why", "-n", "ml", "podgroup/train", "-o", "json"), &a)
		want := []cli.Member{
			{Pod: "train-0", State: cli.MemberBound, Node: "a1", Domain: "a"},
			{Pod: "train-1", State: cli.MemberPending, WouldGoTo: "a2", Domain: "a"},
		}
		if diff := cmp.Diff(want, a.Pods); diff != "" || a.Verdict != cli.VerdictFits {
			t.Errorf("verdict %s, pods (-want +got):\n%s", a.Verdict, diff)
		}
	})
	t.Run("a gang for which no rack is large enough, asked for by a pod", func(t *testing.T) {
		var a cli.Answer
		decode(t, c.in(t).run("why", "ml/large-1", "-o", "json"), &a)
		if a.Verdict != cli.VerdictFits || a.PodGroup != "large" || a.GangVerdict != cli.VerdictDoesNotFit {
			t.Errorf("got %s, podgroup %s: %s", a.Verdict, a.PodGroup, a.GangVerdict)
		}
		out := c.in(t).run("why", "ml/large-1")
		inOrder(t, out, "ml/large-1 fits 2 of 3 nodes now, by itself.", "podgroup ml/large", "TopologyDomainTooSmall", "RACK")
	})
	t.Run("a PodGroup of Kubernetes", func(t *testing.T) {
		var a cli.GangAnswer
		decode(t, c.in(t).run("why", "podgroup/ml/native", "-o", "json"), &a)
		if a.Source != "scheduling.k8s.io" || a.Verdict != cli.VerdictIncomplete || a.MinMembers != 2 {
			t.Errorf("got %+v", a)
		}
	})
	t.Run("top", func(t *testing.T) {
		var r cli.Report
		decode(t, c.in(t).run("top", "-o", "json"), &r)
		got := map[string]int64{}
		for _, g := range r.Gangs {
			got[g.PodGroup] = g.HeldMilliGPU
		}
		if diff := cmp.Diff(map[string]int64{"early": 0, "large": 0, "native": 0, "train": 4000}, got); diff != "" {
			t.Errorf("what gangs hold (-want +got):\n%s", diff)
		}
		inOrder(t, c.in(t).run("top", "--gangs"), "4 gangs", "By topology.kubernetes.io/rack", "AAAA ....", "A  ml/train")
	})
	t.Run("every field is in the page", func(t *testing.T) {
		page, err := os.ReadFile(filepath.Join("..", "..", "docs", "cli.md"))
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"top", "-o", "json"}, {"why", "podgroup/ml/train", "-o", "json"}, {"why", "ml/large-1", "-o", "json"}} {
			var value any
			decode(t, c.in(t).run(args...), &value)
			for path := range paths(value, "") {
				if !strings.Contains(string(page), "\n| `"+path+"` |") {
					t.Errorf("weft %v: docs/cli.md has no row for %s", args, path)
				}
			}
		}
	})
	t.Run("permission", c.gangPermission)
}

// gangPermission: without PodGroups top shows gangs by their pods, why says what an administrator has to do, and that helps.
func (c *commandLine) gangPermission(t *testing.T) {
	c = c.in(t)
	nobody := c.as("nobody")
	status := []byte(`{"status":{"phase":"Pending","message":"no room in any rack"}}`)
	groups, err := dynamic.NewForConfig(c.cp.AdminConfig())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := groups.Resource(podgroup.Resource).Namespace("ml").
		Patch(t.Context(), "large", types.MergePatchType, status, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	inOrder(t, c.run("why", "podgroup/ml/large"), "Its status says, in phase Pending:\n  no room in any rack")
	owner := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "owner"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"scheduling.x-k8s.io"}, Resources: []string{"podgroups"}, Verbs: []string{"get"}}},
	}
	if _, err := c.client.RbacV1().Roles("ml").Create(t.Context(), owner, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	user := []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: "nobody", APIGroup: rbacv1.GroupName}}
	if _, err := c.client.RbacV1().RoleBindings("ml").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "owner"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "owner"}, Subjects: user,
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() string {
		if _, err := c.try(nobody, "why", "podgroup/ml/large"); err == nil ||
			!strings.Contains(err.Error(), "of the gang its status says: Pending: no room in any rack") {
			return fmt.Sprintf("the owner of a namespace: %v, want what the status says", err)
		}
		return ""
	})
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "weft-view"},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"nodes", "pods"}, Verbs: []string{"list", "get"}},
			{APIGroups: []string{"resource.k8s.io"}, Resources: []string{"resourceslices"}, Verbs: []string{"list", "get"}},
		},
	}
	role, err = c.client.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "weft-view"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "weft-view"},
		Subjects:   user,
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() string {
		out, err := c.try(nobody, "top")
		if err != nil || !strings.Contains(out, "its PodGroup could not be read") {
			return fmt.Sprintf("top of somebody who may not read PodGroups: %v\n%s", err, out)
		}
		return ""
	})
	if _, err := c.try(nobody, "why", "podgroup/ml/train"); err == nil || !strings.Contains(err.Error(), "podgroups.scheduling.x-k8s.io") {
		t.Errorf("why of somebody who may not read PodGroups: %v, want what an administrator has to do", err)
	}
	// The rule that the advice adds.
	role.Rules = append(role.Rules, rbacv1.PolicyRule{
		APIGroups: []string{"scheduling.x-k8s.io"}, Resources: []string{"podgroups"}, Verbs: []string{"list", "get"},
	})
	if _, err := c.client.RbacV1().ClusterRoles().Update(t.Context(), role, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() string {
		out, err := c.try(nobody, "why", "podgroup/ml/train")
		if err != nil || !strings.Contains(out, "has 1 member placed, and room now for 1 more") {
			return fmt.Sprintf("after doing as it said: %v\n%s", err, out)
		}
		return ""
	})
}
