// Package gpufit is the scheduler plugin GPUFit: it decides which GPUs of which node a pod gets, and tells the node.
//
//	PreFilter     reads what the pod asks for; refuses a pod that cannot be understood
//	Filter        does the request fit the GPUs of the node? (fit.Check)
//	Score         how good is the placement? (fit.Score, kept in a fit.Memo)
//	Reserve       chooses the GPUs and assumes them in the cache (fit.Assign, cache.Assume)
//	Unreserve     gives them back
//	Bind          posts the Binding with the assignment in its annotation weft.sh/gpus; the API server merges it into the
//	              pod in the same write that sets the node, so that no pod is ever bound without its assignment
//	SignPod       what of the pod decides here, so that equal pods share results (opportunistic batching)
//
// Pods that ask for no GPU pass Filter untouched and are bound by the next Bind plugin; they are scored, for the CPU that
// they take can strand GPUs.
//
// The arithmetic is in packages fit, cluster and cache; this one reads, calls and translates. All profiles of a process
// share one cache.
//
// # What is kept for gangs
//
// Plugin Gang keeps places for gangs that wait (Hold). A pod that they bind is shown nodes on which those members run already, with
// all of their GPUs; what they ask for besides GPUs is subtracted from what is free, for pods without GPUs too. Amounts that pods
// give back before the gang starts are not counted: then less is given out than could be.
//
// # Scores
//
// Score returns the strategy's rating and NormalizeScore turns ratings into ranks, 100 for the best node and no two equal
// among the first hundred, because the framework picks at random among nodes of equal total. With the weight that the
// shipped configuration gives it, a rank outweighs everything that the other plugins can say; a smaller weight lets
// preferences such as soft affinity have their part.
//
// # What brings back a pod that was refused
//
// A pod with GPUs ending, a node or its GPUs changing, or the pod itself changing; see EventsToRegister. What is kept for a gang no
// longer: then plugin Gang has the pods tried that were refused for it.
package gpufit
