package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// errNodeReplaced ends the agent: everything that it has published belongs to a Node that is no more. It is to be started again.
var errNodeReplaced = errors.New("the Node was deleted, or is another one of the same name")

// awaitNode returns the Node as soon as the API server has it, and errs only when ctx ends first.
func awaitNode(ctx context.Context, client kubernetes.Interface, name string, every time.Duration) (*v1.Node, error) {
	said := ""
	for {
		node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			return node, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("waiting for the Node %q: %w", name, err)
		}
		if err.Error() != said {
			said = err.Error()
			hint := "trying again"
			if apierrors.IsNotFound(err) {
				hint = "waiting for it; is --node-name the name of the Node that this runs on?"
			}
			klog.FromContext(ctx).Error(err, "The Node cannot be read", "node", name, "what", hint)
		}
		pause(ctx, every)
	}
}

// nodeWatch sees what others do to the Node.
type nodeWatch struct {
	client kubernetes.Interface
	node   *v1.Node
	// relabelled is called when its labels have changed.
	relabelled func()
}

// run returns [errNodeReplaced] when that happens, and nil when ctx ends.
func (w *nodeWatch) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	factory := informers.NewSharedInformerFactoryWithOptions(w.client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, w.node.Name).String()
	}))
	_, err := factory.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if n, ok := obj.(*v1.Node); ok && n.UID != w.node.UID {
				cancel(errNodeReplaced)
			}
		},
		UpdateFunc: func(before, obj any) {
			old, _ := before.(*v1.Node)
			n, ok := obj.(*v1.Node)
			switch {
			case !ok || old == nil:
			case n.UID != w.node.UID:
				cancel(errNodeReplaced)
			case !maps.Equal(old.Labels, n.Labels):
				w.relabelled()
			}
		},
		DeleteFunc: func(any) { cancel(errNodeReplaced) },
	})
	if err != nil {
		return err
	}
	factory.StartWithContext(ctx)
	<-ctx.Done()
	factory.Shutdown()
	if cause := context.Cause(ctx); errors.Is(cause, errNodeReplaced) {
		return cause
	}
	return nil
}
