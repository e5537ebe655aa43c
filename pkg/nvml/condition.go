package nvml

import (
	"weft.sh/weft/pkg/gpu"
)

// What Condition.Recovery can say, besides "action-<n>" for what this version does not know.
const (
	RecoveryNone          = "none"
	RecoveryGPUReset      = "gpu-reset"
	RecoveryNodeReboot    = "node-reboot"
	RecoveryDrain         = "drain"
	RecoveryDrainAndReset = "drain-and-reset"
	RecoveryIMEXDomain    = "recover-imex-domain"
	RecoveryBusReset      = "bus-reset"
	// RecoveryUnknown: the driver does not say.
	RecoveryUnknown = "unknown"
)

// Condition is the result of a cheap look at one GPU.
type Condition struct {
	// Lost: the GPU does not answer.
	Lost bool
	// Recovery is what the driver wants done before the GPU is used again, one of the constants.
	Recovery string
	// Err is what NVML said where it said an error, for people.
	Err string
}

// Problem is why the GPU cannot be used, empty when it can.
func (c Condition) Problem() string { return "" }

// Check looks whether the GPU answers and what the driver wants done with it. A GPU that Discover never saw counts as lost.
func (l *Library) Check(id gpu.ID) Condition { return Condition{} }
