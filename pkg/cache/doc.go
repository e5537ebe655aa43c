// Package cache keeps two things apart and adds them up: what nodes report (inventory) and what pods hold or are about to
// hold (assignments). From both it makes the [cluster.Snapshot] that decisions are made on.
//
// A pod's holding goes through these states:
//
//	             Assume                 Confirm
//	(unknown) -----------> Assumed ----------------> Confirmed
//	    |                  |     |                     |    ^
//	    |          Suspect |     | Forget              |    | Confirm
//	    |                  v     |                     |    | (another assignment
//	    |              Suspected |                     |    |  replaces the old one)
//	    |              |   |     |                     |    |
//	    |      Confirm |   | Expire, Forget            | Forget
//	    |              v   v     v                     v
//	    +-- Confirm --> Confirmed           (unknown)
//
// A pod of a gang is planned before its own turn comes:
//
//		               Plan               Confirm
//		   (unknown) ---------> Planned ----------> Confirmed
//		       ^                 ^  |  \               ^
//		       | Cancel, Forget  |  |   \ Suspect      | Confirm
//		       +-----------------|--+    v             |
//		                 Expire  +---- Planned and Suspected
//		                                 |
//		                                 | Cancel
//		                                 v
//		                              Suspected (and no longer planned)
//
//	  - Assumed: the scheduler decided it and the API server may not know yet.
//	  - Planned: as Assumed, for a pod that will be bound later or again; Release, which ends an assumption whose binding
//	    failed, leaves it.
//	  - Suspected: the Binding was sent and its fate is unknown (a timeout). It is held until the API server shows the pod
//	    bound, or until a deadline.
//	  - Confirmed: the API server shows the pod bound with this assignment. What the API server shows always wins.
//
// Assumed state is never stored: after a restart everything is rebuilt by Confirm from the bound pods.
//
// Invariant: after any sequence of calls, the snapshot equals one computed from scratch from the inventories and pods
// that remain.
//
// The package is pure but for a mutex: time is an argument.
package cache
