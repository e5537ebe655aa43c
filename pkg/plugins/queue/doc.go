// Package queue is the scheduler plugin Queue: a pod starts when its queue, and every queue above it, has GPUs and GPU-hours left for it.
//
//	PreEnqueue   holds pods back whose queue says no (quota.Book.Admit), and those whose turn it is not (quota.Book.Turns)
//	PreFilter    asks again, for the answer may be out of date; has others leave for a job that limits alone hold back
//	Filter       refuses nodes whose GPUs count more than the budget has left
//	PostFilter   notes that there is no place for the pod: what is idle is not kept for it
//	Reserve      decides, and takes the hold: of a gang once, for all members
//	PreBind      decides about members above a gang's minimum for which Reserve had nothing left
//	Unreserve    gives the hold back
//	SignPod      pods of one queue and run time share results (opportunistic batching)
//
// The arithmetic is package quota's, and what a pod asks and holds is read by package queues. All profiles of a process share one
// [State]. Without Queue objects, or without their definition, every pod passes and nothing is remembered. There are no arguments.
//
// # Where it stands among other plugins
//
// Before Gang in PreFilter, so that nothing is planned for who may not start; before GPUFit in Reserve, so that Unreserve, which runs
// the other way round, finds in the cache of GPUFit who still has GPUs; before Gang in PostFilter, which ends it for members. The order
// of PreEnqueue plugins is not defined: Gang and Queue may each hold a member back, and each activates it by itself.
//
// # What a pod is told
//
// A pod that waits because of its queue has the condition PodScheduled False with the name of a quota.Reason as reason and the figures as
// message, and an event QueueGated. The reason is never Unschedulable, for which cluster autoscalers buy nodes that would not help.
// The condition is written off the hot path, when the reason changes, and once a minute when only figures do; a pod whose turn it is not
// is told after five seconds. A stale Unschedulable of an earlier attempt is replaced. Nothing is written when the pod is let through.
//
// Between PreEnqueue and Reserve others may take what was left. Then PreFilter and Reserve end the cycle with an error rather than a
// rejection: kube-scheduler makes the condition's reason SchedulerError of it, which autoscalers do not act on, and puts the pod back
// through PreEnqueue, which holds it and has the condition say why. A pod is Unschedulable only when the cheapest GPUs that it may run
// on are within its budget and it finds none of them free: then nodes would help.
//
// A job is asked about at the cheapest class of GPUs that it may run on; which nodes are dearer than the budget allows shows in Filter, for
// each pod alone, and is decided at Reserve for the whole gang on the nodes of its plan.
//
// Of several schedulers that wait to be elected each has the same pods in its queue. Only one that schedules writes conditions, which a plugin
// learns by its first cycle: where there are none but pods that queues hold back, one of them is let into a cycle, once.
//
// # Gangs
//
// The members of a gang are one job until it has its minimum: those that run or are being bound, and of those that wait, and are not held by
// scheduling gates, as many as that takes. They are held back together, with the same message. Above the minimum each member is a job by
// itself. The first member's Reserve checks the minimum, and takes the holds of all members that the plan has a place for, above the minimum
// as far as the queue allows; who got none is asked about again at PreBind, when the plan cannot be undone any more, gives its place up
// there after the attempts that a failed binding has, and is held back then. Plugin Gang plans the minimum, and above it as many members, the
// first in rank order, as the queue has room for ([State.Admitted]); the others are held back, and say so. A hold lasts while its pod has GPUs in the cache of GPUFit, planned, assumed or bound; so it ends with the
// plan, stays when a bind is tried again on the same place or nobody knows whether it succeeded, and never outlives both.
// A native PodGroup of the basic policy is no gang: its pods are jobs by themselves.
//
// Members of a gang that is not complete are plugin Gang's to hold back.
//
// # Reclaim
//
// When there is no room for a job, plugin Gang asks who may leave for it ([State.Reclaim]). Where there are queues, priority decides within a
// queue only, and below it about what queues there have above their guarantees; between queues the guarantee does: what others have borrowed is taken back for a job that stays within
// the guarantee of its queue, or of one above, whatever the priorities, gangs as a whole, with the fewest lost hours. A queue never
// loses more than it has above its guarantee, but that a gang which holds some of both leaves whole. Pods of no queue are borrowers of all that
// they have. What is promised to jobs whose victims are still leaving counts as done ([State.Promise]), so that several jobs at once
// take no more than is due. Pods without GPUs preempt, and are preempted, by priority as ever.
//
// # Room below limits
//
// A job that limits alone hold back, of its queue or of one above, waits outside of the scheduling queue, with OverLimit. The worker looks
// whether enough of what runs below these limits may leave for it ([quota.Book.Obtainable]): what others have borrowed there of what is
// guaranteed to it, and those of a lower priority in its own queue and below, unless one of its pods has preemptionPolicy Never. If so it
// lets one pod of the first such job of each queue into a cycle. There PreFilter has plugin Gang make room: it plans the whole job and
// chooses who leaves, the cheapest that suffice both for the places and for each limit. That cycle always ends with an error, so that the pod is
// never Unschedulable for want of quota alone; and without a complete plan nobody leaves.
//
// What is promised is in the book from then on, beside what the victims still hold ([State.Promise]): so nobody takes what they leave, and
// several jobs at once have no victim in common. Their places are kept by plugin Gang. Both end when the job starts, is gone, or has
// something else in its way, and 30 seconds after the longest grace period of the victims; Reserve decides, as ever. A victim that is still
// there then gives no room, and others may leave in its place, but never more of a queue than it has above its guarantee without those
// that were told to. A job for which no plan was found is tried again after two seconds, then four, up to a minute.
//
// After a restart the promises are gone; who is being deleted counts as gone, so that the job asks for no others, and what they leave is promised
// to it anew.
//
// # What wakes a pod
//
// No event of the framework: a worker judges all jobs anew, at most every 50 ms, when a Queue, a GPUClass, a namespace or a node changes,
// when a claim begins or ends, and at each second, when periods, windows and rolling holds move; it activates the pods of which the
// answer changed. That goes both ways: a pod that was refused for want of room and is over its budget since is held back, too.
//
// # Turns
//
// When jobs of more than one queue wait, and quota lets them, their turns are decided by the worker ([quota.Book.Turns]); a new job waits
// for that, some 50 ms. A job that was tried and found no place is passed over until GPUs become free; so is one that has its turn for five
// seconds and is not tried, because another plugin holds it back. When nobody is about to take what is idle, all may try: those without
// room are refused and seen by autoscalers. Within one queue the scheduling queue's order decides: priority, then age.
//
// Where a limit holds a job back, those behind it in its queue wait for it too, unless they end before there is room for it
// ([quota.Book.Behind]). The worker decides that, also for a queue that waits alone.
//
// # After a restart
//
// Claims come from the bound pods, and from pods that ended and still exist; used hours from the statuses of the queues. Nothing is decided
// before all of it is read. Of a pod that ended and was deleted before, only the ledger knows, which the controller brings into
// the statuses every 15 seconds while it runs, and this process. So it keeps a record of that ([quota.Record]) in a ConfigMap: what ended
// and may not be on the books yet, pod by pod, and what runs, added up by queue and start. A scheduler that starts takes from the first what is
// gone, and what of the second is nowhere now it charges up to its start. So budgets never have more than they had before, but by what
// pods used that were bound within recordEvery before a kill and are gone, and were never seen by the controller; and they have exactly as
// much where nothing happened while nobody looked.
//
// Considered instead: to refuse all starts of queues with a budget until there is a checkpoint of after the start. It is smaller and has no
// such rest, but makes two outages of one: while the controller is away no budget could be used after a restart of the scheduler, and
// after each restart none for a minute. Finalizers, which would keep pods until they are on the books, make deleting a pod depend on the
// controller. A write for each pod would be on the way to its binding. The record is one object, written at most every two seconds by who
// schedules, of bounded size, and may be read and written by name alone.
//
// Without a record (it was deleted, or this is the first start) pods are started all the same; the log then says which checkpoints of
// budgets that hold pods back are older than staleAfter. A scheduler that goes on running forgets nothing, nor does one that stands by.
//
// # Concurrency
//
// PreEnqueue runs under the lock of the scheduling queue and takes that of State; nothing of the scheduler is called while that is held.
// The worker lets go of it after every 64 jobs.
package queue
