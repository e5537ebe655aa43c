// Package playground runs a Kubernetes cluster on one machine, for the demo and for the integration tests: a real etcd, a
// real kube-apiserver, KWOK in place of kubelets, simulated GPU nodes with their inventory, and the real weft-scheduler.
//
// # Processes
//
// Every server is a child process. etcd, kube-apiserver and KWOK are the weft-playground binary itself, started again with
// a hidden subcommand (package child), so there is one file to build and to ship; weft-scheduler is its own binary, the
// one that runs in production. A child writes to a log file of its own, is in a process group of its own (so that Ctrl-C
// reaches only the parent, which stops the children in order) and is killed by the kernel when the parent dies (Linux).
//
// # State
//
// Everything lies in one directory. It is thrown away at the end unless the caller named it, which is why etcd runs
// without fsync and why the API server, which takes up to a minute to drain, is killed after a short grace.
// All servers listen on 127.0.0.1 only, on ports that stay reserved for the whole run.
//
// # What there is not
//
// There is no controller manager: nobody creates service accounts, replicas or endpoints, collects garbage or empties a
// namespace that is deleted. The admission plugins that count on one are off (see [StartControlPlane]).
package playground
