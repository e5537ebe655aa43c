// Package devicemanager tests Weft's device plugins on the kubelet's own device manager and its own PodResources server, taken from
// the kubelet's source and run without a container runtime. A pod takes milliseconds here, so that there can be thousands of them.
//
// The kubelet's directory is a constant of the kubelet. The tests run themselves again in a mount namespace of their own, with a tmpfs
// there; that takes root. Without it they are skipped, and fail where WEFT_REQUIRE_E2E=1 says that they must run.
package devicemanager
