package integration

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"weft.sh/weft/manifests"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
)

// TestControllerPods: of a pod the controller changes the annotation weft.sh/checkpoint-by and nothing else, and nobody else
// changes that.
func TestControllerPods(t *testing.T) {
	const (
		its, theirs = "controller-pods.weft.sh", "pod-checkpoint-by.weft.sh"
		only        = "of a pod the controller may change the annotation weft.sh/checkpoint-by only"
		fixed       = only + ", and no label, owner, finalizer, spec or status"
		alone       = "the annotation weft.sh/checkpoint-by says when the pod is evicted because the budget of its queue is used up: " +
			"weft-controller alone sets it; leave it as it is"
	)
	for _, release := range manifestReleases {
		t.Run(release.name, func(t *testing.T) {
			cp := startControlPlane(t, playground.ControlPlaneOptions{APIServerArgs: release.args})
			applyManifests(t, cp)
			admin := clientset(t, cp.AdminConfig())
			as := func(user string) kubernetes.Interface {
				cfg := cp.ConfigFor(user, "system:serviceaccounts", "system:authenticated")
				cfg.WarningHandler = rest.NoWarnings{}
				return clientset(t, cfg)
			}
			controller := as(playground.ControllerUser)
			pod := manifestPod(map[string]string{"note": "theirs", podspec.AnnotationRuntime: "1h"}, limits("main", podspec.ResourceGPU, "1"))
			pod.Labels = map[string]string{"app": "train", podspec.LabelQueue: "team"}
			pod.Finalizers = []string{"example.com/wait"}
			pod, err := admin.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			patch := func(client kubernetes.Interface, body string, subresources ...string) error {
				_, err := client.CoreV1().Pods("default").Patch(t.Context(), pod.Name, types.MergePatchType, []byte(body), metav1.PatchOptions{}, subresources...)
				return err
			}
			annotate := func(key, value string) string { return fmt.Sprintf(`{"metadata":{"annotations":{%q:%s}}}`, key, value) }
			by := annotate(podspec.AnnotationCheckpointBy, `"2026-11-21T16:07:04Z"`)
			for policy, try := range map[string]func() error{ // policies are read from a watch
				its:    func() error { return patch(controller, annotate("x", `"y"`)) },
				theirs: func() error { return patch(admin, by) },
			} {
				eventually(t, time.Minute, func() string {
					if err := try(); denial(err, policy) == "" {
						return fmt.Sprintf("policy %s is not enforced: %v", policy, err)
					}
					return ""
				})
			}
			for _, c := range []struct {
				name         string
				client       kubernetes.Interface
				body, policy string
				want         string // empty for what is admitted
			}{
				{"when it has to leave", controller, by, its, ""},
				{"the same of the pod that is meant", controller, fmt.Sprintf(`{"metadata":{"uid":%q,"annotations":{%q:"2026-11-21T17:00:00Z"}}}`,
					pod.UID, podspec.AnnotationCheckpointBy), its, ""},
				{"another annotation", controller, annotate("x", `"y"`), its, only + "; found x"},
				{"another value", controller, annotate("note", `"mine"`), its, only + "; found note"},
				{"an annotation less", controller, annotate("note", "null"), its, only + "; found note"},
				{"a label", controller, `{"metadata":{"labels":{"app":"other"}}}`, its, fixed},
				{"no label", controller, `{"metadata":{"labels":{"app":null}}}`, its, fixed},
				{"its finalizers", controller, `{"metadata":{"finalizers":null}}`, its, fixed},
				{"an owner", controller, `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"a","uid":"b"}]}}`, its, fixed},
				{"its image", controller, `{"spec":{"containers":[{"name":"main","image":"other","resources":{"limits":{"nvidia.com/gpu":"1"}}}]}}`, its, fixed},
				{"its deadline", controller, `{"spec":{"activeDeadlineSeconds":1}}`, its, fixed},
				{"its owner moves it", admin, by, theirs, alone},
				{"its owner takes it away", admin, annotate(podspec.AnnotationCheckpointBy, "null"), theirs, alone},
				{"its owner changes something else", admin, annotate("note", `"new"`), theirs, ""},
				{"not any more", controller, annotate(podspec.AnnotationCheckpointBy, "null"), its, ""},
			} {
				err := patch(c.client, c.body)
				if got := denial(err, c.policy); got != c.want || c.want == "" && err != nil || c.want != "" && !apierrors.IsForbidden(err) {
					t.Errorf("%s: denied with\n%q\nwant\n%q\nfull answer: %v", c.name, got, c.want, err)
				}
			}
			other := manifestPod(nil, limits("main", podspec.ResourceGPU, "1"))
			other.Annotations = map[string]string{podspec.AnnotationCheckpointBy: "2026-11-21T16:07:04Z"}
			other.Spec.SchedulerName = "default-scheduler"
			_, err = admin.CoreV1().Pods("default").Create(t.Context(), other, metav1.CreateOptions{})
			if got := denial(err, theirs); got != alone {
				t.Errorf("a pod is created with it: %q, %v", got, err)
			}
			// Whom the pod is may be said: another of its name is not told.
			if err := patch(controller, fmt.Sprintf(`{"metadata":{"uid":"another","annotations":{%q:"2026-11-21T18:00:00Z"}}}`,
				podspec.AnnotationCheckpointBy)); !apierrors.IsInvalid(err) {
				t.Errorf("another pod of the name is told: %v", err)
			}
		})
	}
}

// TestControllerWithSQLite: one at a time writes the file, on a volume, with nothing else to write to.
func TestControllerWithSQLite(t *testing.T) {
	objects := controllerObjects(t)
	d := find[appsv1.Deployment](t, objects, "Deployment", "weft-controller")
	claim := find[corev1.PersistentVolumeClaim](t, objects, "PersistentVolumeClaim", "weft-ledger")
	budget := find[policyv1.PodDisruptionBudget](t, objects, "PodDisruptionBudget", "weft-controller")
	if *d.Spec.Replicas != 1 || d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		t.Errorf("%d replicas, %s: two would write the file", *d.Spec.Replicas, d.Spec.Strategy.Type)
	}
	spec := d.Spec.Template.Spec
	if v := spec.Volumes; len(v) != 1 || v[0].PersistentVolumeClaim == nil || v[0].PersistentVolumeClaim.ClaimName != claim.Name || claim.Namespace != d.Namespace {
		t.Errorf("volumes %+v do not name the claim %s", v, claim.Name)
	}
	c := spec.Containers[0]
	if m := c.VolumeMounts; len(m) != 1 || m[0].Name != spec.Volumes[0].Name || m[0].MountPath != "/var/lib/weft" || m[0].ReadOnly {
		t.Errorf("mounts %+v: want the default of --ledger", m)
	}
	if !*c.SecurityContext.ReadOnlyRootFilesystem || *spec.SecurityContext.FSGroup != *spec.SecurityContext.RunAsGroup {
		t.Errorf("%+v, %+v", c.SecurityContext, spec.SecurityContext)
	}
	if budget.Spec.MinAvailable != nil || budget.Spec.MaxUnavailable.IntValue() != 1 {
		t.Errorf("%+v: one replica would keep its node from being drained", budget.Spec)
	}
}

// TestControllerWithPostgres: two replicas, a DSN from a Secret, and nothing is left of the volume.
func TestControllerWithPostgres(t *testing.T) {
	files := fstest.MapFS{"site/kustomization.yaml": {Data: []byte(
		"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../controller]\ncomponents: [../controller/postgres]\n")}}
	err := fs.WalkDir(manifests.FS, "controller", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(manifests.FS, name)
		files[name] = &fstest.MapFile{Data: data}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	objects, err := playground.Render(files, "site")
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range objects {
		if u.GetKind() == "PersistentVolumeClaim" {
			t.Errorf("there is still a claim %s", u.GetName())
		}
	}
	d := find[appsv1.Deployment](t, objects, "Deployment", "weft-controller")
	if *d.Spec.Replicas != 2 || d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		t.Errorf("%d replicas, %s", *d.Spec.Replicas, d.Spec.Strategy.Type)
	}
	env := d.Spec.Template.Spec.Containers[0].Env
	if len(env) != 1 || env[0].Name != "WEFT_LEDGER" || env[0].ValueFrom.SecretKeyRef.Name != "weft-ledger" || env[0].ValueFrom.SecretKeyRef.Key != "dsn" {
		t.Errorf("environment %+v", env)
	}
	for _, m := range d.Spec.Template.Spec.Containers[0].VolumeMounts {
		if !m.ReadOnly || strings.HasPrefix(m.MountPath, "/var/lib") {
			t.Errorf("mount %+v", m)
		}
	}
	cp := startControlPlane(t, playground.ControlPlaneOptions{})
	applyManifests(t, cp)
	admitted(t, cp, d)
}
