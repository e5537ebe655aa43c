package playground

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// fieldManager is the name under which the playground writes objects.
const fieldManager = "weft-playground"

// Render runs kustomize over a folder, as kubectl apply -k would, in the order that kustomize thinks best for applying
// (namespaces and definitions first). root is the folder of the kustomization in files.
func Render(files fs.FS, root string) ([]*unstructured.Unstructured, error) {
	const top = "/manifests" // kustomize does not build at the root of its file system
	inMemory := filesys.MakeFsInMemory()
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		return inMemory.WriteFile(top+"/"+name, b)
	})
	if err != nil {
		return nil, fmt.Errorf("manifests: %w", err)
	}
	o := krusty.MakeDefaultOptions()
	o.Reorder = krusty.ReorderOptionLegacy
	resources, err := krusty.MakeKustomizer(o).Run(inMemory, path.Join(top, root))
	if err != nil {
		return nil, fmt.Errorf("manifests: %w", err)
	}
	var objects []*unstructured.Unstructured
	for _, r := range resources.Resources() {
		m, err := r.Map()
		if err != nil {
			return nil, fmt.Errorf("manifests: %w", err)
		}
		objects = append(objects, &unstructured.Unstructured{Object: m})
	}
	return objects, nil
}

// Apply writes the objects in their order by server-side apply. A definition is waited for until it is established, and a kind
// until the server knows it. Each gets the annotation that kubectl apply would set, which otherwise warns of every object when
// somebody applies them again.
func Apply(ctx context.Context, cfg *rest.Config, objects []*unstructured.Unstructured) error {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return err
	}
	disco, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disco))
	for _, o := range objects {
		gvk := o.GroupVersionKind()
		var mapping *meta.RESTMapping
		var missing error
		err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) {
			var err error
			mapping, err = mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
			if meta.IsNoMatchError(err) {
				missing = err
				mapper.Reset()
				return false, nil
			}
			return err == nil, err
		})
		if err != nil {
			return fmt.Errorf("apply %s %s: %w", gvk.Kind, o.GetName(), errors.Join(missing, err))
		}
		resource := dynamic.ResourceInterface(client.Resource(mapping.Resource))
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			ns := o.GetNamespace()
			if ns == "" {
				ns = metav1.NamespaceDefault
			}
			resource = client.Resource(mapping.Resource).Namespace(ns)
		}
		if o, err = withLastApplied(o); err != nil {
			return fmt.Errorf("apply %s %s: %w", gvk.Kind, o.GetName(), err)
		}
		if _, err := resource.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
			return fmt.Errorf("apply %s %s: %w", gvk.Kind, o.GetName(), err)
		}
		if gvk.Kind == "CustomResourceDefinition" {
			if err := waitEstablished(ctx, resource, o.GetName()); err != nil {
				return fmt.Errorf("apply %s %s: it is not established: %w", gvk.Kind, o.GetName(), err)
			}
		}
	}
	return nil
}

// waitEstablished waits until the API server serves what the definition defines.
func waitEstablished(ctx context.Context, definitions dynamic.ResourceInterface, name string) error {
	return wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 10*time.Second, true, func(ctx context.Context) (bool, error) {
		o, err := definitions.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		conditions, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions") // null at first, which is an error to it
		return slices.ContainsFunc(conditions, func(c any) bool {
			m, ok := c.(map[string]any)
			return ok && m["type"] == "Established" && m["status"] == "True"
		}), nil
	})
}

// withLastApplied is a copy of the object with itself in the annotation from which kubectl apply sees what to remove.
func withLastApplied(o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	text, err := o.MarshalJSON()
	if err != nil {
		return o, err
	}
	// Not a deep copy: what kustomize renders holds numbers of a type that it refuses.
	out := &unstructured.Unstructured{}
	if err := out.UnmarshalJSON(text); err != nil {
		return o, err
	}
	annotations := out.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[corev1.LastAppliedConfigAnnotation] = string(text)
	out.SetAnnotations(annotations)
	return out, nil
}

// ErrNoSchedulerConfig is wrapped by the error of [SchedulerConfig] when no ConfigMap holds one.
var ErrNoSchedulerConfig = errors.New("no ConfigMap holds a KubeSchedulerConfiguration")

// SchedulerConfig is the KubeSchedulerConfiguration that the rendered manifests mount into the scheduler, changed only
// where a process outside of a cluster has to differ: the kubeconfig, leader election, and the limit on its requests,
// which would be what a measurement measures.
func SchedulerConfig(objects []*unstructured.Unstructured, kubeconfig string, leaderElection bool) ([]byte, error) {
	for _, o := range objects {
		if o.GetKind() != "ConfigMap" {
			continue
		}
		data, _, err := unstructured.NestedStringMap(o.Object, "data")
		if err != nil {
			return nil, fmt.Errorf("ConfigMap %s: %w", o.GetName(), err)
		}
		for key, text := range data {
			var cfg map[string]any
			if err := yaml.Unmarshal([]byte(text), &cfg); err != nil || cfg["kind"] != "KubeSchedulerConfiguration" {
				continue
			}
			if err := errors.Join(
				unstructured.SetNestedField(cfg, kubeconfig, "clientConnection", "kubeconfig"),
				unstructured.SetNestedField(cfg, float64(clientQPS), "clientConnection", "qps"),
				unstructured.SetNestedField(cfg, float64(clientQPS), "clientConnection", "burst"),
				unstructured.SetNestedField(cfg, leaderElection, "leaderElection", "leaderElect"),
			); err != nil {
				return nil, fmt.Errorf("ConfigMap %s, key %s: %w", o.GetName(), key, err)
			}
			return yaml.Marshal(cfg)
		}
	}
	return nil, fmt.Errorf("manifests: %w", ErrNoSchedulerConfig)
}

// clientQPS is far above what one scheduler on one machine reaches.
const clientQPS = 5000
