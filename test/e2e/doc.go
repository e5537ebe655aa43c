// Package e2e runs real containers on a real node, and shows that they get what they should: etcd, kube-apiserver and
// weft-scheduler with the shipped manifests, and as the node containerd, runc and the kubelet of the Kubernetes release
// that Weft is built on. What no machine here has is faked, and only that: the GPUs.
//
// hack/e2e.sh (make e2e) builds and installs what is needed and runs the tests. Plain go test skips them, for
// WEFT_E2E_BIN is not set.
//
// # Where it runs
//
// The test binary starts itself again in namespaces of its own (TestMain). They have an empty /run, /var/log,
// /var/lib/kubelet and /var/lib/cni in memory, a loopback interface and nothing else of a network, and one cgroup for all
// pods. So nothing is written outside of them but the logs, every path and port is what it is on a node, and when the
// tests end, by whatever means, the kernel kills all that is left.
//
// # How a test is written
//
//	e := start(t)                                    // the cluster, shared by all tests, without pods
//	agent := e.startAgent(dgx)                       // the node agent over these GPUs, until the test ends
//	e.create(newPod("p", newContainer("main")))      // the workload writes its environment and devices, and waits
//	e.running("p")                                   // or phase; a failure shows the pod's status and events
//	r := e.report("p", "main", false)                // what it wrote
//	e.signal("p", "main", syscall.SIGTERM)           // ends the container, not the pod
//	agent.kill(); agent.start()                      // SIGKILL, and another one; stop is SIGTERM
//	e.kubelet.kill(); e.must(e.startKubelet(t.Context()))
//	e.must(e.crash(t.Context()))                     // the node loses power
//	entries, err := checkpoint()                     // the devices that the kubelet has handed out
//	e.remove("p")                                    // or at the end, with all others
//
// A pod is ordinary: it has an address of its own, and goes to the node by Weft's scheduler. There is no controller
// manager, so nothing makes pods of Jobs and the like, and nothing evicts. A test runs alone: t.Parallel is not for these.
package e2e
