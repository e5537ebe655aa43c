// Package e2e runs real containers on a real node: etcd, kube-apiserver, weft-scheduler with the shipped manifests,
// containerd, runc and the kubelet of the release that Weft is built on. hack/e2e.sh (make e2e) builds these, installs
// what is missing and runs the tests; plain go test skips them.
package e2e
