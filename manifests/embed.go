// Package manifests holds the YAML that is applied to a cluster, so that a program can apply exactly what is shipped
// without having the repository or the network: the playground and the tests do.
//
//	kustomization.yaml   all of it, with the subfolders that it names: kubectl apply -k manifests
//	scheduler/           the scheduler: account, rights, configuration, Deployment. config.yaml alone is a
//	                     KubeSchedulerConfiguration as kube-scheduler's --config reads it
//	controller/          the controller: account, rights, Deployment
//	crds/                the definition of PodGroup, for gangs
//	admission/           the admission policies
//	node/                the node agent: account, rights, policies, Service and the DaemonSet of node/agent. Its folders
//	                     fractions and mps are kustomizations of their own, access-* and driver-container are components,
//	                     monitoring is an example; none of them is part of the kustomization
//	examples/            pods and gangs of every kind of request, and one that fits nowhere; not part of the kustomization
//
// The package decides nothing and imports nothing: reading and applying are the caller's.
package manifests

import "embed"

// FS is this folder as it is in the repository, without the Go files. Files of a kustomization are not to be applied as they
// are: the ConfigMap of the scheduler, its name and the labels come from the kustomization.
//
//go:embed kustomization.yaml namespace.yaml crds scheduler controller admission node examples
var FS embed.FS

// SchedulerConfig is the path in FS of the scheduler's configuration.
const SchedulerConfig = "scheduler/config.yaml"

// Examples is the folder in FS of the examples.
const Examples = "examples"
