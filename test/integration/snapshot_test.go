package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/cli"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/snapshot"
)

// TestSnapshot: a snapshot of a cluster with MIG, shares, a gang and queues says of its GPUs what weft top
// says, has nothing of what runs in pods, and plans are made from it.
func TestSnapshot(t *testing.T) {
	const secret = "hunter2"
	c := newCommandLine(t)
	c.namespace("ml")
	partitioned := h100s("b1", 2)
	table, _ := mig.TableByProduct(partitioned[1].Product)
	partitioned[1].MIG, partitioned[1].Instances = true, table.Instances()
	product := podspec.LabelProduct
	c.node("a1", map[string]string{"topology.kubernetes.io/rack": "a", product: partitioned[0].Product, "owner": secret}, h100s("a1", 4)...)
	c.node("b1", map[string]string{"topology.kubernetes.io/rack": "b", product: partitioned[0].Product}, partitioned...)
	pod := func(name string, ask corev1.ResourceName, amount int64, node, assignment string, labels map[string]string) {
		p := c.template(name, ask, amount)
		p.Labels = labels
		p.Annotations = map[string]string{"note": secret, podspec.AnnotationRuntime: "2h"}
		main := &p.Spec.Containers[0]
		main.Image, main.Args, main.Command = "registry.invalid/"+secret, []string{"--token=" + secret}, []string{secret}
		main.Env = []corev1.EnvVar{{Name: "TOKEN", Value: secret}}
		p.Spec.Volumes = []corev1.Volume{{Name: "token", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}}}
		if p.Spec.NodeName = node; assignment != "" {
			p.Annotations[podspec.AnnotationGPUs] = assignment
		}
		c.create(p)
	}
	research := map[string]string{podspec.LabelQueue: "research"}
	// With the policies nobody but the scheduler could.
	pod("train", podspec.ResourceGPU, 2, "a1", "main=GPU-a1-0,GPU-a1-1", research)
	pod("notebook", podspec.ResourceGPUPercent, 25, "a1", "main=GPU-a1-2:250m/20389Mi", research)
	pod("search", corev1.ResourceName(podspec.MIGResource("3g.40gb")), 1, "b1", "main=GPU-b1-1:3g.40gb@4:4", research)
	applyManifests(t, c.cp)
	queues := dynamicClient(t, c.cp.AdminConfig()).Resource(v1alpha1.Queues)
	for name, spec := range map[string]string{"org": "{gpus: {guaranteed: 2, limit: 12}}", "research": "{parent: org, gpus: {guaranteed: 2}, budget: {gpuHours: 1000}}"} {
		if _, err := queues.Create(t.Context(), weftObject(t, "Queue", name, spec), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	group := playground.Group{Name: "large", MinMember: 2, Required: "topology.kubernetes.io/rack"}.Object()
	group.SetNamespace("ml")
	if err := newApplier(t, c.cp.AdminConfig()).apply(t.Context(), group); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		pod(fmt.Sprintf("large-%d", i), podspec.ResourceGPU, 4, "", "", map[string]string{podspec.LabelQueue: "research", podspec.LabelPodGroup: "large"})
	}
	const others = 10
	for i := range others {
		c.pod(fmt.Sprintf("other-%d", i), corev1.ResourceCPU, 1, "", "")
	}

	for _, format := range []string{"json", "yaml"} {
		t.Run(format, func(t *testing.T) {
			c := c.in(t)
			text := c.run("snapshot", "-o", format)
			if strings.Contains(text, secret) {
				t.Errorf("what runs in pods, or what nodes are labelled with, is in the snapshot:\n%.4000s", text)
			}
			d, o, err := snapshot.Read(strings.NewReader(text), "snapshot")
			if err != nil {
				t.Fatal(err)
			}
			if len(d.Pods) != others+5 || len(d.Nodes) != 2 || len(d.Queues) != 2 || len(d.PodGroups) != 1 {
				t.Errorf("%d pods, %d nodes, %d queues, %d PodGroups", len(d.Pods), len(d.Nodes), len(d.Queues), len(d.PodGroups))
			}
			s := o.State()
			var capacity, assigned int64
			for _, n := range s.Cluster.Sorted() {
				for i := range n.GPUs {
					capacity += gpu.WholeMilliGPU
					assigned += n.AssignedMilliGPU(i)
				}
			}
			var top cli.Report
			decode(t, c.run("top", "-o", "json"), &top)
			if capacity != top.Totals.CapacityMilliGPU || assigned != top.Totals.AssignedMilliGPU || assigned != 2750 {
				t.Errorf("%d of %d milli-GPU are assigned, weft top says %d of %d", assigned, capacity, top.Totals.AssignedMilliGPU, top.Totals.CapacityMilliGPU)
			}
			k := gang.Key{Source: gang.SourceCRD, Namespace: "ml", Name: "large"}
			if g := s.Gangs[k]; g.Min != 2 || g.Required != "topology.kubernetes.io/rack" || len(s.Queues) != 2 || len(s.Problems) > 0 {
				t.Errorf("gang %+v, %d queues, problems %v", g, len(s.Queues), s.Problems)
			}
		})
	}
	t.Run("in pages of two", func(t *testing.T) {
		source := snapshot.Source{
			Client: c.client, Dynamic: dynamicClient(t, c.cp.AdminConfig()), Now: time.Now(), SchedulerName: "weft", Levels: cli.DefaultTopologyLevels(),
		}
		var whole, paged strings.Builder
		for _, to := range []*strings.Builder{&whole, &paged} {
			if _, err := snapshot.Take(t.Context(), source, to, snapshot.Options{}); err != nil {
				t.Fatal(err)
			}
			source.PageSize = 2
		}
		if diff := cmp.Diff(whole.String(), paged.String()); diff != "" {
			t.Errorf("(-at once +in pages):\n%s", diff)
		}
	})
	t.Run("what if", func(t *testing.T) {
		c := c.in(t)
		path := filepath.Join(t.TempDir(), "cluster.json")
		if err := os.WriteFile(path, []byte(c.run("snapshot")), 0o600); err != nil {
			t.Fatal(err)
		}
		var w cli.WhatIf
		if err := json.Unmarshal([]byte(c.run("plan", "what-if", "--snapshot", path, "--add-nodes", "2xh100", "-o", "json")), &w); err != nil {
			t.Fatal(err)
		}
		// A node like b1 or a1: as many have 4 GPUs as 2, so it is the larger one.
		if w.Before.Starts.GangCount != 0 || w.After.Starts.GangCount != 1 || w.After.Starts.MilliGPU != 8000 || w.After.CapacityMilliGPU != 14000 {
			t.Errorf("%+v", w)
		}
	})
	t.Run("anonymous", func(t *testing.T) {
		text := c.in(t).run("snapshot", "--anonymous")
		if _, _, err := snapshot.Read(strings.NewReader(text), "snapshot"); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{`"ml"`, `"research"`, `"large`, `"train"`, `"notebook"`, `"a1"`, "GPU-a1", `"other-`} {
			if strings.Contains(text, name) {
				t.Errorf("it has %s", name)
			}
		}
	})
	t.Run("who may not", func(t *testing.T) {
		c := c.in(t)
		role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "nothing-of-pods"}, Rules: []rbacv1.PolicyRule{{
			APIGroups: []string{"", "weft.sh", "scheduling.x-k8s.io", "resource.k8s.io"}, Verbs: []string{"list"},
			Resources: []string{"nodes", "namespaces", "queues", "gpuclasses", "podgroups", "resourceslices"},
		}}}
		binding := &rbacv1.ClusterRoleBinding{
			ObjectMeta: role.ObjectMeta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "nobody"}},
		}
		if _, err := c.client.RbacV1().ClusterRoles().Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.client.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err := c.try(c.kubeconfig, "--as", "nobody", "snapshot")
		if err == nil || !strings.Contains(err.Error(), "create clusterrole weft-view") {
			t.Errorf("got %v, want what an administrator has to grant", err)
		}
	})
}
