// Package mps keeps NVIDIA's MPS control daemon running for each GPU of a node that containers share, and says where one is.
//
// There is one daemon per GPU, so that a fault in one GPU's clients does not reach those of another, and every daemon has a folder
// of its own below the root:
//
//	<root>/<GPU>/pipe    CUDA_MPS_PIPE_DIRECTORY of the daemon and of its clients
//	<root>/<GPU>/shm     /dev/shm of its clients, which leads to <root>/shm
//	<root>/<GPU>/log     CUDA_MPS_LOG_DIRECTORY
//	<root>/<GPU>/lock    locked by the process that runs the daemon
//	<root>/<GPU>/ready   there while the daemon answers
//
// A daemon and its clients speak through files in the pipe folder and in /dev/shm, so both must be the same for both: <root>/shm has to
// be mounted at /dev/shm where the daemons run. The root is best on a tmpfs, such as /run of the host. NVIDIA asks besides that they
// see each other's process ids: the daemons run in the host's PID namespace.
//
// The process that runs the daemons is not the node agent: ending a daemon ends its clients, and the agent is restarted at any time.
// The two meet in the folder alone, and [Ready] is true only while both the daemon answers and the process that runs it lives: the
// kernel lets go of the lock of a process that was killed, whatever that has left behind.
//
// It changes no setting of a GPU, neither compute mode nor anything else.
package mps
