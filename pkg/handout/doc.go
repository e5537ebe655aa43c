// Package handout gives containers their GPUs: it answers the kubelet's Allocate and PreStartContainer, keeps the book of who holds
// what ([slot.Book]) on disk, and tells the container runtime what to put into a container by CDI specifications. What it gives
// to whom is decided in package slot; here is when, in which order, and what survives.
//
// # Order
//
// Every arrow can be the last thing that happens before the agent is killed:
//
//	Allocate   record written down ─▶ answered with the record's CDI name
//	PreStart   who holds the slots ─▶ reconciled, decided ─▶ bound record written down ─▶ specification written ─▶ answered
//	Collect    book without the record written down ─▶ specification removed
//
// What is found afterwards:
//
//   - A record of which the kubelet never heard: Collect releases it after [slot.Grace].
//   - A record that the kubelet has and the book has not, for it could not be written down: PreStart takes its name from the
//     kubelet's checkpoint. So Allocate is not refused on a full disk, for which the pod would have to be created again; PreStart
//     is, and the kubelet repeats it until there is room.
//   - A bound record without a specification: no container has started by it. The kubelet repeats PreStart, which writes the
//     specification of the same GPUs; or the pod goes, and Collect releases the record.
//   - A specification without a record, or half a file beside it: Collect removes both. No container is made by the former: the pod
//     that had the name is over, and a name is never given out twice.
//
// So a container that was made has a bound record and a specification; and what is bound is bound to no other pod.
//
// A runtime learns of a specification a moment after it is there, by reading the whole folder again, and makes no container before. Of
// many containers that start at once, about one in a hundred is made too early, fails, and is made again by the kubelet. PreStart does
// not wait for the runtime: what tells when it has noticed, a reader of the folder like its own, was tried in the agent, and takes so
// much of a small machine that Allocate took twice as long.
//
// # Who is told
//
// The kubelet does not say which container it starts, only which slots it has, and an init container can have had the slots of
// another container of the pod ([slot.Book.Owners]). All of them are told what they have. Where one of them cannot be (its assignment
// names nothing for it, its GPU is lost), the start goes on as long as another can: the one that starts may well be the other, the
// first having ended long ago. If it is the first after all, it cannot be made: a container that is refused has no specification,
// also not from an earlier start, and the runtime makes no container with a CDI device that does not exist.
//
// A container has the same specification under each of its names, with everything that it holds of all resources. So two of them
// cannot contradict each other, and the container is right once all are there, which the kubelet sees to.
//
// # Which pod
//
// The kubelet's checkpoint has the UID of the pod; the pod of that UID is waited for, never one of that name. Only when the
// checkpoint cannot be read and the record has not been bound is there just a name, from PodResources. A name is not enough: a pod can
// be deleted and created again under it while this node's watch still shows the old one. So the watch must show exactly one such
// pod, and the API server, asked after the kubelet was, must have the same one. What is left: the kubelet may itself be late,
// and start a container of a pod that is deleted already; it gets the GPUs of its successor of the same name until it is killed,
// and nobody else's.
//
// # Power
//
// Nothing is synced to the disk. What the process has written survives its end, in the kernel's memory; only a loss of power, or of
// the kernel, loses it. Containers do not survive that either, nor does the folder of the specifications, which is on a tmpfs. The
// checkpoint is then what it was some seconds before, or no checkpoint at all, and neither does harm: what it says of pods that
// are gone is released, what it does not say comes from the kubelet's checkpoint as the containers start again. A sync would take
// longer than the whole of an Allocate may (10 ms), on a disk that others use.
//
// A checkpoint that cannot be read while there are specifications, so that containers may be running by them, is rebuilt by
// [slot.Book.Recover] as soon as the pods and the kubelet's checkpoint are known; until then no container starts, and nothing is
// written down that a next start would take for the whole.
package handout
