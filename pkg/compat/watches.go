package compat

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	genericfeatures "k8s.io/apiserver/pkg/features"
	"k8s.io/component-base/featuregate"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"
)

// watch is one informer of kube-scheduler, and when it is started.
type watch struct {
	// resource is what it lists and watches. Informers are typed, so the version is exact: another version of the same
	// resource does not help.
	resource schema.GroupVersionResource
	// gates must all be enabled for the informer to start; the last is the most specific. None: no gate governs it.
	gates []featuregate.Feature
	// plugins start it, any one of them is enough. None: the scheduler starts it itself.
	plugins []string
}

// startedWith reports whether the informer runs with these gates, where no profile uses the plugins in unused.
func (w watch) startedWith(gates featuregate.FeatureGate, unused sets.Set[string]) bool {
	for _, gate := range w.gates {
		if !gates.Enabled(gate) {
			return false
		}
	}
	return len(w.plugins) == 0 || slices.ContainsFunc(w.plugins, func(plugin string) bool { return !unused.Has(plugin) })
}

func (w watch) String() string {
	return resourceName(w.resource)
}

// resourceName writes a resource as kubectl takes it, for example "devicetaintrules.v1.resource.k8s.io".
func resourceName(resource schema.GroupVersionResource) string {
	if resource.Group == "" {
		return resource.Resource + "." + resource.Version
	}
	return resource.Resource + "." + resource.Version + "." + resource.Group
}

func resource(group, version, name string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: group, Version: version, Resource: name}
}

// watches returns every informer that kube-scheduler can start. It is read off Kubernetes 1.37.0: scheduler.New,
// addAllEventHandlers, internalqueue.NewSchedulingQueue and the constructors of the in-tree plugins in pkg/scheduler,
// and Run in cmd/kube-scheduler/app. TestWatchesAreThoseOfTheScheduler compares it with what a scheduler really lists.
func watches() []watch {
	const (
		volumeBinding      = names.VolumeBinding
		volumeZone         = names.VolumeZone
		volumeRestrictions = names.VolumeRestrictions
		nodeVolumeLimits   = names.NodeVolumeLimits
	)
	dra := []featuregate.Feature{features.DynamicResourceAllocation}
	// Listers of its default constraints. With other default constraints, or none, it does not need them, but an API
	// server without apps/v1 runs no workloads that have a spread, so args are not looked at.
	spread := []string{names.PodTopologySpread}

	return []watch{
		{resource: resource("", "v1", "pods")},
		{resource: resource("", "v1", "nodes")},
		{resource: resource("", "v1", "namespaces")},
		{resource: resource("storage.k8s.io", "v1", "csinodes")},

		{resource: resource("", "v1", "services"), plugins: spread},
		{resource: resource("", "v1", "replicationcontrollers"), plugins: spread},
		{resource: resource("apps", "v1", "replicasets"), plugins: spread},
		{resource: resource("apps", "v1", "statefulsets"), plugins: spread},

		{resource: resource("policy", "v1", "poddisruptionbudgets"), plugins: []string{names.DefaultPreemption}},

		{resource: resource("", "v1", "persistentvolumeclaims"), plugins: []string{volumeBinding, volumeZone, volumeRestrictions, nodeVolumeLimits}},
		{resource: resource("", "v1", "persistentvolumes"), plugins: []string{volumeBinding, volumeZone, nodeVolumeLimits}},
		{resource: resource("storage.k8s.io", "v1", "storageclasses"), plugins: []string{volumeBinding, volumeZone, nodeVolumeLimits}},
		{resource: resource("storage.k8s.io", "v1", "csidrivers"), plugins: []string{volumeBinding, nodeVolumeLimits}},
		{resource: resource("storage.k8s.io", "v1", "csistoragecapacities"), plugins: []string{volumeBinding}},
		{resource: resource("storage.k8s.io", "v1", "volumeattachments"), plugins: []string{nodeVolumeLimits}},

		{resource: resource("resource.k8s.io", "v1", "resourceclaims"), gates: dra},
		{resource: resource("resource.k8s.io", "v1", "resourceslices"), gates: dra},
		{resource: resource("resource.k8s.io", "v1", "deviceclasses"), gates: dra},
		{
			resource: resource("resource.k8s.io", "v1", "devicetaintrules"),
			gates:    []featuregate.Feature{features.DynamicResourceAllocation, features.DRADeviceTaintRules},
		},

		{resource: resource("scheduling.k8s.io", "v1beta1", "podgroups"), gates: []featuregate.Feature{features.GenericWorkload}},
		{resource: resource("scheduling.k8s.io", "v1alpha3", "compositepodgroups"), gates: []featuregate.Feature{features.CompositePodGroup}},

		// Not an informer of the scheduler but of its leader election, which it waits for just as long.
		{resource: resource("coordination.k8s.io", "v1beta1", "leasecandidates"), gates: []featuregate.Feature{genericfeatures.CoordinatedLeaderElection}},
	}
}
