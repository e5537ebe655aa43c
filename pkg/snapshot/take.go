package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/pager"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/podgroup"
)

// Source is where and how a snapshot is taken.
type Source struct {
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	// Now is the moment, SchedulerName what pods name to be placed by Weft, Levels the topology levels of the scheduler.
	Now           time.Time
	SchedulerName string
	Levels        []string
	// PageSize is how many objects are asked for at a time; 0 is 500, as many as kubectl asks for.
	PageSize int64
	// Progress is told what and how many so far; nil for nobody.
	Progress func(what string, n int)
}

// ListError is a list that the API server did not give. It unwraps to its answer.
type ListError struct {
	// Resource and Group are what was asked for; the group is empty for the core one.
	Resource, Group string
	Err             error
}

// Error implements error.
func (e *ListError) Error() string { return fmt.Sprintf("listing %s: %v", e.Resource, e.Err) }

// Unwrap is the API server's answer.
func (e *ListError) Unwrap() error { return e.Err }

// Options are how it is written.
type Options struct {
	// YAML is for people; JSON, an object in each line, is smaller and much faster to read.
	YAML bool
	// Names replaces names; nil leaves them as they are.
	Names *Names
}

// defaultPageSize is the number of objects asked for at a time, and how often progress is told.
const defaultPageSize = 500

// Take reads the cluster and writes its document, object by object: of pods no more than a few pages are held in memory, of GPUs those of
// all nodes. What a cluster does not serve it has none of. left says what could not be read and is not in it. After an error what was
// written is no document.
func Take(ctx context.Context, s Source, w io.Writer, o Options) (left []string, err error) {
	t := &taker{Source: s, out: newWriter(w, o.YAML), keep: newKeeper(s.Levels), names: o.Names}
	t.head()
	steps := []func(context.Context) error{t.classes, t.queues, t.namespaces, t.groups, t.nativeGroups, t.pods, t.nodes}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return t.left, t.out.close()
}

type taker struct {
	Source
	out   *writer
	keep  *keeper
	names *Names
	left  []string
	// queued says that there are queues.
	queued bool
}

func (t *taker) head() {
	d := Document{SchedulerName: t.SchedulerName, TopologyLevels: slices.Clone(t.Levels)}
	t.names.head(&d)
	t.out.field("apiVersion", APIVersion)
	t.out.field("kind", Kind)
	t.out.field("taken", t.Now.UTC())
	t.out.field("anonymous", t.names != nil)
	t.out.field("schedulerName", d.SchedulerName)
	t.out.field("topologyLevels", d.TopologyLevels)
}

// each calls add for every object of a list, page by page, in the order of the API server. What is not served has none.
func each[T any](ctx context.Context, t *taker, what, group string, opts metav1.ListOptions, page pager.ListPageFunc, add func(T) error) error {
	p := pager.New(page)
	p.PageSize = cmp.Or(t.PageSize, defaultPageSize)
	p.PageBufferSize = 2
	n := 0
	err := p.EachListItem(ctx, opts, func(object runtime.Object) error {
		o, ok := object.(T)
		if !ok {
			return fmt.Errorf("the API server answered with a %T", object)
		}
		if n++; n%defaultPageSize == 0 && t.Progress != nil {
			t.Progress(what, n)
		}
		return add(o)
	})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return &ListError{Resource: what, Group: group, Err: err}
}

// eachOf is each for kinds that Kubernetes does not have itself. One that cannot be read does not hide the others.
func eachOf[T any](ctx context.Context, t *taker, r schema.GroupVersionResource, add func(*T) error) error {
	return each(ctx, t, r.Resource, r.Group, metav1.ListOptions{}, func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return t.Dynamic.Resource(r).List(ctx, opts)
	}, func(u *unstructured.Unstructured) error {
		typed := new(T)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, typed); err != nil {
			t.left = append(t.left, fmt.Sprintf("%s %s cannot be read: %v", u.GetKind(), u.GetName(), err))
			return nil
		}
		return add(typed)
	})
}

func (t *taker) classes(ctx context.Context) error {
	t.out.begin("classes")
	err := eachOf(ctx, t, v1alpha1.GPUClasses, func(c *v1alpha1.GPUClass) error {
		kept := t.keep.class(c)
		t.names.class(&kept)
		return t.out.item(kept)
	})
	t.out.end()
	return err
}

func (t *taker) queues(ctx context.Context) error {
	t.out.begin("queues")
	err := eachOf(ctx, t, v1alpha1.Queues, func(q *v1alpha1.Queue) error {
		t.queued = true
		kept := t.keep.queue(q)
		t.names.queue(&kept)
		return t.out.item(kept)
	})
	t.out.end()
	return err
}

func (t *taker) namespaces(ctx context.Context) error {
	t.out.begin("namespaces")
	defer t.out.end()
	if !t.queued {
		return nil // nothing else depends on them, and not everybody may list them
	}
	return each(ctx, t, "namespaces", "", metav1.ListOptions{}, func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return t.Client.CoreV1().Namespaces().List(ctx, opts)
	}, func(n *v1.Namespace) error {
		kept := t.keep.namespace(n)
		t.names.namespace(&kept)
		return t.out.item(kept)
	})
}

func (t *taker) groups(ctx context.Context) error {
	t.out.begin("podGroups")
	defer t.out.end()
	return eachOf(ctx, t, podgroup.Resource, func(pg *schedv1alpha1.PodGroup) error {
		kept := keepGroup(pg)
		t.names.group(&kept)
		return t.out.item(kept)
	})
}

func (t *taker) nativeGroups(ctx context.Context) error {
	t.out.begin("nativePodGroups")
	defer t.out.end()
	err := each(ctx, t, "podgroups", schedulingv1beta1.GroupName, metav1.ListOptions{}, func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return t.Client.SchedulingV1beta1().PodGroups(metav1.NamespaceAll).List(ctx, opts)
	}, func(pg *schedulingv1beta1.PodGroup) error {
		kept := keepNative(pg)
		t.names.native(&kept)
		return t.out.item(kept)
	})
	if apierrors.IsForbidden(err) {
		// Of a kind that it does not serve the API server says first of all that the user may not list it.
		t.left = append(t.left, "PodGroups of scheduling.k8s.io: "+err.Error())
		return nil
	}
	return err
}

func (t *taker) pods(ctx context.Context) error {
	t.out.begin("pods")
	defer t.out.end()
	alive := metav1.ListOptions{FieldSelector: "status.phase!=" + string(v1.PodSucceeded) + ",status.phase!=" + string(v1.PodFailed)}
	return each(ctx, t, "pods", "", alive, func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return t.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, opts)
	}, func(p *v1.Pod) error {
		if p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed {
			return nil // between one page and the next
		}
		kept := t.keep.pod(p)
		t.names.pod(&kept)
		return t.out.item(kept)
	})
}

// nodes come last: which of their labels are kept depends on what selects by them.
func (t *taker) nodes(ctx context.Context) error {
	published := map[string][]*resourceapi.ResourceSlice{}
	ours := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(resourceapi.ResourceSliceSelectorDriver, inventory.Driver).String()}
	err := each(ctx, t, "resourceslices", resourceapi.GroupName, ours, func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return t.Client.ResourceV1().ResourceSlices().List(ctx, opts)
	}, func(s *resourceapi.ResourceSlice) error {
		if s.Spec.NodeName != nil {
			published[*s.Spec.NodeName] = append(published[*s.Spec.NodeName], s)
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.out.begin("nodes")
	defer t.out.end()
	return each(ctx, t, "nodes", "", metav1.ListOptions{}, func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return t.Client.CoreV1().Nodes().List(ctx, opts)
	}, func(n *v1.Node) error {
		var inv cluster.Inventory
		if s := published[n.Name]; len(s) > 0 {
			inv = inventory.FromSlices(s)
			for _, problem := range inv.Problems {
				t.left = append(t.left, fmt.Sprintf("node %s: %s", n.Name, problem))
			}
		}
		kept := t.keep.node(n, inv)
		t.names.node(&kept)
		return t.out.item(kept)
	})
}
