// Package nodeagent is the agent of a node with GPUs: it joins what knows the hardware, what gives it out and what tells of it, and is
// the command weft-node.
//
// # Parts
//
// Each is one goroutine that owns its state; they meet on the board, which shows the latest [State] to whoever looks.
//
//	NVML ──▶ hardware ──▶ board ──┬─▶ publisher   ResourceSlices
//	         (health)             ├─▶ labeller    labels of the Node
//	                              ├─▶ announcer   the log, events on the Node
//	          book ───────────────┼─▶ offer       device plugins
//	           ▲                  └─▶ handout     what a container may have
//	           └── collect, kubelet
//
// Calls to NVML are made by goroutines of their own, for NVML may hang, and nothing else must hang with it.
//
// # What a node has
//
// GPUs that were there since the node was booted stay, unhealthy, when they are gone, so that slots and counts stay: kubelets and people
// are told of a failure, not of a smaller node. They are remembered in a file, for NVML does not tell the name of a GPU that is lost when
// it starts. A reboot forgets them, as does an admin who removes the file and starts the agent anew.
//
// # The end
//
// When the agent is told to stop, nothing more is published first, and the node's slices and labels are taken back; then the
// device plugins go, then the rest. When it is killed everything stays as it is: containers run on, and the next agent finds in its book
// what they hold.
package nodeagent
