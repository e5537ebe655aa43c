// Package gang is the scheduler plugin Gang: pods of one PodGroup start together or not at all. The whole gang is planned when
// the first member's turn comes, reserved at once, and bound when every member has passed its own cycle.
//
//	QueueSort     members of a gang stand together, by the age of their PodGroup
//	PreEnqueue    holds members back, without a condition, until the gang can be planned: its PodGroup is there and valid, and
//	              enough members exist
//	PreFilter     plans the gang (gang.Plan) and reserves it; pins each member to its place
//	Filter        a member passes on its place only
//	PostFilter    a member that was refused there ends the plan; a gang without room takes the place of others, or has what
//	              becomes free kept for it; keeps preemption for single members away
//	Reserve       checks that the place is still the member's
//	Permit        the last member releases all
//	Unreserve     before the release it ends the plan; after it, the member is tried again on the same place
//	PostBind      the member needs its place no more
//	SignPod       members are never batched; other pods are
//
// The plan itself is package gang's; which GPUs a member gets goes through the cache that plugin GPUFit decides on, in which
// all members hold theirs from the moment of the plan (see state Planned in package cache). CPU and the rest of a place are kept
// by nominating the member in the scheduler's memory, which in-tree plugins respect for pods of no higher priority. Nothing is
// written to the API before the bindings.
//
// # The life of a plan
//
//	             PreFilter of any member
//	             gang.Plan, other plugins asked
//	(no plan) -----------------------------------> Reserved: every member holds its GPUs and is nominated
//	 ^  ^   |                                        |       |
//	 |  |   | no room: all members are told          |       | each member's cycle: pinned, Reserve, waits at Permit
//	 |  |   v the same, one of them leads            |       v
//	 |  | Refused                                    |    the last member is at Permit, or the minimum runs already
//	 |  +---- an event for the leader                |       |
//	 |                                               |       v
//	 +-----------------------------------------------+    Released: all are bound; one whose bind fails keeps its place for
//	   a member is gone, refused or not in time;             |      bindRetries more attempts and is then given up
//	   the PodGroup changed: everything is given             |
//	   back, members that wait are tried again               | one that does not come in time loses its place
//	                                                         v
//	                                                      (no plan), when the API server shows all of them bound
//
// Invariant: before the release no member is bound; so a gang is bound whole or not at all, but for binds that the API server
// refuses for good. Those that then fall below the minimum are the controller's to evict, which works without a scheduler.
//
// Nothing of this is stored. After a restart the bound members are found by the tracker, and a plan is made for those that are
// missing.
//
// # Other plugins
//
// A plan must please every other plugin of the profile. Their PreFilter and Filter are run for one member of each distinct
// shape, on the nodes that have the GPUs, in a cycle of its own that Gang and GPUFit skip; NodeResourcesFit too, because the
// problem counts what is free for all members together. Where a member's place may depend on another's (affinity, spreading, host
// ports, volumes), the plan is checked once more, each member with all others in place, and made anew with tighter limits when it
// does not hold. Where that leads nowhere the members are placed one by one, each where the other plugins let it beside those
// before it (oneByOne); nobody else is scheduled meanwhile, so the search is cut short after about a tenth of a second, counted and not
// measured, and the members are told so (see work). In the cycle of such a member the others count as if they were in place
// already (withOthers): among members that must be spread evenly no order of the cycles would do otherwise. What is left (labels that
// select one member alone, a change between the plan and the member's cycle) shows in the member's own Filter and ends the plan; the
// node is then left out for that member for a minute.
//
// # What brings back a gang that was refused
//
// An event on a node that can take a member brings back the leader alone, after its backoff; with a plan it activates the
// others, also those that the plan has no place for: of these the next one to be refused leads. Where the members' places depend on
// other pods, volumes or claims, so does an event elsewhere. See EventsToRegister. A plan that was undone keeps its gang from
// planning for half a second, and twice as long each time that follows, up to ten.
//
// # A gang without room
//
// It is planned a second time, on the nodes that could take a member if others left, for the best that was possible, which all
// members are told. Then, at the end of the cycle of the member that leads, once for each refusal:
//
//   - Preemption (gang.Preempt), unless a member has preemptionPolicy Never. Who is being deleted already counts as gone. There are
//     victims only when there is a plan for the whole gang that all other plugins accept without them. They are pods of lower
//     priority that are in no gang, members above their gang's minimum, the last in rank order, or gangs as a whole; also a gang
//     that would start anew when it lost one (weft.sh/on-member-lost: restart) leaves as a whole. The gang's places are kept for
//     it, and then the victims are deleted as DefaultPreemption does it, off the scheduling loop; the last one to go brings the
//     gang back. What is kept expires 30 s after the longest grace period of the victims; a pod that is still there then is
//     counted on no more.
//     Where there are Queues (Options.Queues) those of lower priority leave only if they are of the gang's queue, of one below it, or
//     have no GPUs; and, whatever their priority, those of queues that have borrowed what the gang's is guaranteed (gang.Preempt with caps).
//     A gang, or a pod, that the limits of queues alone hold back has others leave in the same way, in a cycle of its own that plugin Queue
//     begins: those whose leaving gives room below the limits, wherever they run, though there may be places for it already. What is kept for
//     a pod in no gang ends when it is bound or gone. See roomBelow.
//   - Backfill (gang.Start; argument backfill): when enough pods say how long they run, it is known when the gang can start, and
//     on what. That is kept for it, and pods that end before may start on it, by their weft.sh/runtime. It is computed anew each
//     time the gang is refused again: when pods end, and when the start has come and pods run longer than they said.
//   - Ageing (gang.Drain; argument agingSeconds): where that is not known and the youngest member has waited so long, what becomes
//     free on certain nodes is kept for it, until it starts.
//
// One gang of each priority has a reservation of the last two kinds, the oldest that can; it is dropped when the gang starts, is
// gone or changes, or cannot be planned any more. What is known of the start is kept for 15 minutes after the last refusal, so that
// nothing stays kept for a gang that another plugin holds back. What is kept binds pods and gangs of no higher priority: GPUFit shows
// them the nodes without it (ReservedForGang), GPUs one by one, CPU and other resources by amount. When it is dropped, the pods and
// gangs that were refused for it are tried again. Profiles without GPUFit do not see it, nor do host ports and affinity: those a gang
// may lose to others until its plan is made.
// What limits a node besides resources (an anti-affinity that a victim has, a host port that it holds) counts as if the victim stayed.
//
// Reservations are not stored. After a restart the gang is refused again and they are made anew; victims that are leaving by then are
// not chosen twice. The gang is older than what waits behind it and so has its turn first; only pods that have theirs in the
// moment until its PodGroup is read may take what was kept, once for each restart.
//
// The leader's refusal is told to the other members at once, several at a time and off the scheduling loop, which writes one
// status after the other and waits for each answer; see tellOthers. Events of a gang of more than 64 members that come within
// milliseconds are looked at together; see looks.
//
// A pod that is in no gang and may take the place of gang members evicts whole gangs or members above a minimum only: it is planned
// as a gang of one, and DefaultPreemption chooses victims for it without seeing the members that their gangs need; see
// preemptAlone. DefaultPreemption by itself has such pods only where no gang of lower priority runs and, for pods with GPUs, there are
// no Queues, and groups of scheduling.k8s.io that are no gangs.
//
// # PodGroups of scheduling.k8s.io
//
// Where the scheduler handles them (its gate GenericWorkload) the framework takes the group from the queue as one, simulates a cycle
// for each pod, Reserve included, takes all of it back, and then reserves, permits and binds the pods for which that succeeded.
// The whole plan is carried out within that one cycle, by the same book:
//
//	PlacementGenerate   plans, reserves, and offers the nodes of the plan as the one placement; with one there is nothing to
//	                    score. A refusal is a FitError, so that every member is told. Without TopologyAwareWorkloadScheduling
//	                    nobody asks for placements, and the first member's PreFilter plans
//	PreFilter, Filter   pin each member, as ever
//	Reserve, Unreserve  in the simulation they check, and leave the plan alone
//	Permit              counts; plugin GangScheduling has members wait. With the minimum there the plan is released, for then
//	                    GangScheduling lets them go. A failure before undoes it and rejects those that wait
//	PodGroupPostFilter  a simulation that failed ends the plan; a gang without room is helped as above; DefaultPreemption, which
//	                    does not know who holds which GPUs, is kept away
//
// A plan that is not released is undone when the next cycle begins, of whichever pod: cycles do not overlap. Groups that are no
// gangs (policy basic) are the framework's alone, and get their placements from the in-tree generator.
//
// Where the gate is off PreEnqueue holds their pods back: they would be scheduled one by one.
//
// # Concurrency
//
// PreFilter to Permit run one at a time; Unreserve and PostBind on the goroutines of bindings, the tracker's calls on those of
// informers, evictions on their own, and PreEnqueue, Less and the queueing hints under the scheduling queue's lock. See the types
// queue, book and waiting, which have a lock each for that reason.
package gang
