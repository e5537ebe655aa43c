// Package accounts turns what pods do into segments of the ledger: from when to when a pod held its GPUs, and on what evidence.
//
// # Evidence
//
// A pod holds its GPUs from the moment it is bound. It gives them back when its last container ended, by the kubelet's own time of
// it. Where nobody wrote that down, in this order:
//
//	containers  the latest finishedAt of its containers, of a pod of which all have ended
//	deleted     the moment its deletion was seen, if its containers were still said to run: a pod object goes when its kubelet
//	            has stopped them, or when somebody forces it
//	deadline    a deletion that was missed, of a pod that had been told to go: the end of its grace period
//	missing     a deletion that was missed: half-way between the moment to which it is charged and now, but no more than a tick
//	            after the first. Marked as estimated, as deadline is
//	phase       it ended without a container's time, for instance evicted before any ran: when its status says so, or else when that
//	            was seen
//
// Times of nodes are taken as they are, within what is possible: not before the pod was bound, not after now.
//
// # Charged, and corrected
//
// A tick charges what runs up to the watermark. The kubelet tells late that a container ended, so a segment that is closed may
// end before the moment to which it had been charged: closing corrects it, once. A closed segment never changes.
//
// Observe and Charge are pure. A [Keeper] feeds them with what the informer of pods says, and commits what comes of it: one that leads.
// Others only note which pods went lately, which is what they know better than the ledger when they take over.
package accounts
