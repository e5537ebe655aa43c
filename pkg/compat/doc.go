// Package compat lets a scheduler that is built on one Kubernetes release work against API servers of others.
//
// A kube-scheduler starts one informer per API that it reads and schedules nothing until each has listed its objects
// once. An API that the server does not serve is never listed, so the scheduler waits for ever, without an error:
// kube-scheduler 1.37 against an API server 1.34 waits for DeviceTaintRule v1, which appeared in 1.37.
//
// [Adapt] wraps the command of kube-scheduler. Before anything starts it asks the API server for its version and for
// what it serves, and sets two flags of the command from the answer:
//
//   - --emulated-version: the release whose features the scheduler has. Kubernetes calls it the component's
//     compatibility version (KEP-4330).
//   - --feature-gates: the gates that would start an informer for an API that is not served, and the gates that depend
//     on them, are switched off.
//
// Besides, gates are switched off that cost more than they are worth here, unless the user set them; see [Unwanted]. And where
// the API server serves native PodGroups (scheduling.k8s.io/v1beta1, which no release does unless it is told to), the gates that
// they need are switched on, unless the user set them, an older release is emulated, or the profiles of --config were written
// without them in mind; see [Wanted].
//
// Where no setting of the flags makes every informer's API available, the command fails at once and names the API.
//
// # Vocabulary
//
// To serve a resource is to list it in discovery under its exact group and version. To emulate a release is to behave
// as it does. A gate is forced off when this package, not the user, switches it off. A gate is locked when its release
// does not allow another value.
//
// # Invariants
//
// What a user sets explicitly is never changed: with --emulated-version that release is used or nothing is, and a gate
// that is named in --feature-gates keeps its value.
//
// [Decide] is pure: it sees the answers of the server and the gates as values, and returns a decision with reasons.
//
// # What others can rely on
//
// After the command's flags are set, features.DynamicResourceAllocation is enabled only if the server serves
// resource.k8s.io/v1, and features.GenericWorkload only if it serves PodGroup in scheduling.k8s.io/v1beta1; then it is
// enabled unless the user or the configuration speaks against it. A plugin that needs informers for these asks the gate,
// and needs no discovery of its own.
//
// # What it does not do
//
// It looks once, at start. A server that is upgraded later is still treated as the older one until the scheduler
// restarts, which is safe; a server that is downgraded below the emulated version calls for a restart. It knows nothing
// of custom resources: a plugin that watches one handles its absence.
package compat
