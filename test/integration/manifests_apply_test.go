package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"weft.sh/weft/manifests"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
)

// manifestObjects are the objects that kubectl apply -k manifests applies, in its order.
func manifestObjects(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	objects, err := playground.Render(manifests.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// exampleObjects are the objects of each example, by the name of its file.
func exampleObjects(t *testing.T) map[string][]*unstructured.Unstructured {
	t.Helper()
	names, err := fs.Glob(manifests.FS, manifests.Examples+"/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatalf("examples: %q, %v", names, err)
	}
	out := map[string][]*unstructured.Unstructured{}
	for _, name := range names {
		data, err := fs.ReadFile(manifests.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(data, []byte("# ")) {
			t.Errorf("%s: want a comment on top that says what it shows", name)
		}
		out[path.Base(name)] = parseYAML(t, data)
	}
	return out
}

func parseYAML(t *testing.T, text []byte) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		u := &unstructured.Unstructured{}
		err := decoder.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if u.Object != nil {
			out = append(out, u)
		}
	}
}

// find is the one object of the kind and name.
func find[T any](t *testing.T, objects []*unstructured.Unstructured, kind, name string) *T {
	t.Helper()
	for _, u := range objects {
		// The name of a generated object ends in a hash.
		if u.GetKind() == kind && (u.GetName() == name || strings.HasPrefix(u.GetName(), name+"-") && kind == "ConfigMap") {
			out := new(T)
			if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, out, true); err != nil {
				t.Fatal(err)
			}
			return out
		}
	}
	t.Fatalf("no %s %q in the manifests", kind, name)
	return nil
}

// warnings collects what the API server warns of: deprecated fields and pods below the namespace's security level.
type warnings struct {
	mu   sync.Mutex
	text []string
}

// HandleWarningHeader implements rest.WarningHandler.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

func (w *warnings) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := slices.Clone(w.text)
	w.text = nil
	return out
}

// applier applies objects as kubectl apply --server-side --validate=strict does.
type applier struct {
	client   dynamic.Interface
	mapper   *restmapper.DeferredDiscoveryRESTMapper
	warnings *warnings
}

func newApplier(t *testing.T, cfg *rest.Config) *applier {
	t.Helper()
	w := &warnings{}
	cfg = rest.CopyConfig(cfg)
	cfg.WarningHandler = w
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &applier{client: client, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(d)), warnings: w}
}

func (a *applier) apply(ctx context.Context, u *unstructured.Unstructured) error {
	gvk := u.GroupVersionKind()
	m, err := a.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return err
	}
	data, err := u.MarshalJSON()
	if err != nil {
		return err
	}
	namespace := u.GetNamespace()
	if namespace == "" && m.Scope.Name() == "namespace" {
		namespace = "default"
	}
	_, err = a.client.Resource(m.Resource).Namespace(namespace).Patch(ctx, u.GetName(), types.ApplyPatchType, data,
		metav1.PatchOptions{FieldManager: "test", FieldValidation: metav1.FieldValidationStrict})
	return err
}

// applyManifests applies everything and waits until the API server enforces the policies, which it reads from a watch.
func applyManifests(t *testing.T, cp *playground.ControlPlane) []*unstructured.Unstructured {
	t.Helper()
	ctx := t.Context()
	a := newApplier(t, cp.AdminConfig())
	objects := manifestObjects(t)
	for _, u := range objects {
		if err := a.apply(ctx, u); err != nil {
			t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
		}
		for _, w := range a.warnings.take() {
			t.Errorf("%s %s: the API server warns: %s", u.GetKind(), u.GetName(), w)
		}
	}
	pods := clientset(t, cp.AdminConfig()).CoreV1().Pods("default")
	for policy, annotation := range map[string]string{
		"gpu-assignment.weft.sh": podspec.AnnotationGPUs,
		"gpu-requests.weft.sh":   podspec.AnnotationGPUCount,
	} {
		bad := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "canary", Annotations: map[string]string{annotation: "0"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "none"}}},
		}
		var last error
		err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
			_, last = pods.Create(ctx, bad, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			return last != nil && strings.Contains(last.Error(), policy), nil
		})
		if err != nil {
			t.Fatalf("policy %s is not enforced: %v (last answer: %v)", policy, err, last)
		}
	}
	return objects
}

// denial is what the policy said, without what the API server puts before it; "" for another error.
func denial(err error, policy string) string {
	if err == nil {
		return ""
	}
	_, text, ok := strings.Cut(err.Error(), fmt.Sprintf("ValidatingAdmissionPolicy '%s' with binding '%s' denied request: ", policy, policy))
	if !ok || !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) {
		return ""
	}
	return text
}
