package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/dynamic-resource-allocation/resourceslice"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
)

// publisher keeps the node's ResourceSlices as the board says.
type publisher struct {
	client kubernetes.Interface
	node   *v1.Node
	board  *board
	// syncDelay is how soon after somebody else changed or deleted the slices they are put right.
	syncDelay time.Duration
	// served is how often to look whether the server has learnt to serve ResourceSlices, and to try again what failed.
	served time.Duration
}

// run publishes until ctx ends. What it has published stays; see [publisher.withdraw].
func (p *publisher) run(ctx context.Context) {
	log := klog.FromContext(ctx)
	said := ""
	for ctx.Err() == nil {
		err := p.controlled(ctx)
		if ctx.Err() != nil {
			return
		}
		// Said once, for it may stay so for ever.
		if err.Error() != said {
			said = err.Error()
			log.Error(err, "The node's GPUs are not published as ResourceSlices, so the scheduler cannot choose any of them for a pod")
		}
		pause(ctx, p.served)
	}
}

var errNotServed = errors.New("the API server does not serve " + resourceapi.SchemeGroupVersion.String() + " ResourceSlices")

// controlled runs the controller of the slices until ctx ends. It returns an error where it cannot begin.
func (p *publisher) controlled(ctx context.Context) error {
	if err := slicesServed(p.client); err != nil {
		return err
	}
	state, changed := p.board.look()
	for ; state == nil; state, changed = p.board.look() {
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	log := klog.FromContext(ctx)
	droppedBefore := ""
	controller, err := resourceslice.StartController(ctx, resourceslice.Options{
		DriverName: inventory.Driver,
		KubeClient: p.client,
		Owner:      &resourceslice.Owner{APIVersion: "v1", Kind: "Node", Name: p.node.Name, UID: p.node.UID},
		Resources:  p.resources(state),
		SyncDelay:  &p.syncDelay,
		// Called by the controller's one worker.
		ErrorHandler: func(_ context.Context, err error, msg string) {
			if dropped := (*resourceslice.DroppedFieldsError)(nil); errors.As(err, &dropped) {
				// Every sync of every slice says so again.
				if features := fmt.Sprint(dropped.DisabledFeatures()); features != droppedBefore {
					droppedBefore = features
					log.Info("The API server does not keep everything that is published; without DRADeviceTaints, DRA claims could take the GPUs",
						"disabledFeatures", features)
				}
				return
			}
			log.Error(err, "Publishing ResourceSlices: "+msg)
		},
	})
	if err != nil {
		return err
	}
	defer controller.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
			var next *State
			if next, changed = p.board.look(); !sameDevices(state, next) {
				controller.Update(p.resources(next))
			}
			state = next
		}
	}
}

// sameDevices reports whether both states publish the same.
func sameDevices(a, b *State) bool { return slices.EqualFunc(a.Devices, b.Devices, gpu.Device.Equal) }

func (p *publisher) resources(s *State) *resourceslice.DriverResources {
	var pool resourceslice.Pool
	for _, chunk := range inventory.Devices(s.Devices) {
		pool.Slices = append(pool.Slices, resourceslice.Slice{Devices: chunk})
	}
	return &resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{p.node.Name: pool}}
}

// withdraw deletes the node's slices of our driver, and no others.
func (p *publisher) withdraw(ctx context.Context) error {
	client := p.client.ResourceV1().ResourceSlices()
	list, err := client.List(ctx, metav1.ListOptions{FieldSelector: fields.Set{
		resourceapi.ResourceSliceSelectorDriver: inventory.Driver, resourceapi.ResourceSliceSelectorNodeName: p.node.Name,
	}.String()})
	if apierrors.IsNotFound(err) {
		return nil // the server does not serve them
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range list.Items {
		if s.Spec.Driver != inventory.Driver || s.Spec.NodeName == nil || *s.Spec.NodeName != p.node.Name {
			continue
		}
		err := client.Delete(ctx, s.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// slicesServed errs unless the API server serves the ResourceSlices that the scheduler reads; the error is [errNotServed] when it
// said that it does not.
func slicesServed(client kubernetes.Interface) error {
	list, err := client.Discovery().ServerResourcesForGroupVersion(resourceapi.SchemeGroupVersion.String())
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("asking the API server what it serves: %w", err)
	}
	if err == nil && slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == "resourceslices" }) {
		return nil
	}
	return errNotServed
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
