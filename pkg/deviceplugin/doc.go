// Package deviceplugin speaks with the kubelet: it offers slots as devices, passes on what the kubelet calls, and reads what the
// kubelet says who holds them. It decides nothing; a [Handler] does.
//
// # Vocabulary
//
//   - A resource is what the kubelet counts, by a name such as nvidia.com/gpu ([ResourceName]). Each has a device plugin of its
//     own, for the kubelet's protocol (v1beta1) knows no other way.
//   - A device is what the kubelet calls a slot: a name and whether it is healthy. Slots say nothing of NUMA nodes, for the GPU
//     behind a slot is not known until its container starts, so the kubelet has no opinion which slots fit together.
//   - A registration is one socket that the kubelet was told of. A socket is registered once in its life; whenever the kubelet
//     has to be told again there is a new one, with a name never used before, because a kubelet refuses the socket that it
//     knows and takes a new one beside it without a gap.
//
// # What can go wrong, and what is done
//
// A kubelet that starts removes every socket and knows no plugin; one that dies closes its connections; sockets are removed by
// people and programs that tidy up. The [Manager] notices by its watch on the directory, by the connection that the kubelet
// holds open to each plugin, and by looking every now and then. It registers again, after pauses that grow while that fails
// or does not last. Of two managers on one directory the kubelet uses the one that registered last, and goes on with the other
// when that ends; neither touches the sockets of the other.
//
// # What the kubelet knows
//
// [Kubelet] reads it from two places, for neither knows everything: see [slot.Claim].
package deviceplugin
