// Package framework is engine "framework" of the simulator: pods are placed by the real kube-scheduler with the configuration
// that is shipped, so with the real plugins, over an API server in memory.
//
// # What is real
//
// The scheduler of k8s.io/kubernetes with its queue, its cache, its snapshot, its default plugins and ours, made by scheduler.New
// of manifests/scheduler/config.yaml: the order of plugins, weights and arguments, which nodes are sampled
// (percentageOfNodesToScore is not set there, so that of a large cluster a part is looked at) and how equal nodes are told apart.
// Pods, nodes and ResourceSlices are the objects that a cluster has; what is measured is what the Bindings say.
//
// # What is not
//
// There is no network. Requests end in a transport that knows how to answer them, and what would come back by watches is handed
// to the informers' handlers directly: nothing arrives late, so that a pod is decided on everything that was decided before.
// Pods come one by one: the next is created when the one before is bound or refused, and one that is refused is deleted.
//
// # What makes a run repeatable
//
//   - The scheduler looks at nodes with one worker and not with 16: which nodes of a sample are found first is then no matter of
//     luck. It also leaves the other processors to other runs.
//   - Gate OpportunisticBatching is off: for half a second by the clock on the wall, pods that are equal share what was found for
//     the first of them.
//   - The scheduler picks at random among nodes of equal total. There are none that matter: plugin GPUFit gives the best hundred
//     different ranks, and one rank outweighs what all other plugins say.
//   - Plugin GPUFit computes its strategy within the cycle in which that is due, and not beside the next ones.
//   - Pods do not preempt: all have the same priority, so that nobody could be evicted, and to find that out takes longest.
package framework
