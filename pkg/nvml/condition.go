package nvml

import (
	"encoding/binary"
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

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

// recoveries are by the values of nvmlDeviceGpuRecoveryAction_t (nvml.h of CUDA 13.4).
var recoveries = []string{
	RecoveryNone, RecoveryGPUReset, RecoveryNodeReboot, RecoveryDrain, RecoveryDrainAndReset, RecoveryIMEXDomain, RecoveryBusReset,
	RecoveryNodeReboot,
}

// Condition is the result of a cheap look at one GPU.
type Condition struct {
	// Lost: the GPU does not answer. Only [Library.Discover] can see it again.
	Lost bool
	// Recovery is what the driver wants done before the GPU is used again, one of the constants.
	Recovery string
	// Err is what NVML said where it said an error, for people.
	Err string
}

// Problem is why the GPU cannot be used, empty when it can.
func (c Condition) Problem() string {
	switch {
	case c.Err != "":
		return c.Err
	case c.Lost:
		return "lost"
	case c.Recovery == RecoveryNone || c.Recovery == RecoveryUnknown || c.Recovery == "":
		return ""
	}
	return "the driver asks for recovery before it is used again: " + c.Recovery
}

// Check looks whether the GPU answers and what the driver wants done with it. A GPU that did not answer the last Discover
// counts as lost.
func (l *Library) Check(id gpu.ID) Condition {
	if err := l.enter(); err != nil {
		return Condition{Lost: true, Recovery: RecoveryUnknown, Err: err.Error()}
	}
	defer l.leave()
	dev := l.handle(id)
	if dev == nil {
		return Condition{Lost: true, Recovery: RecoveryUnknown, Err: "it did not answer when the GPUs were last looked for"}
	}
	c := look(dev)
	if c.Err != "" {
		l.lose(nvml.ERROR_GPU_IS_LOST)
	}
	return c
}

// look asks the GPU two things that it has to answer itself; its name and UUID NVML knows by heart.
func look(dev nvml.Device) Condition {
	c := Condition{Recovery: RecoveryUnknown}
	if _, ret := dev.GetMemoryInfo(); ret != nvml.SUCCESS && ret != nvml.ERROR_NOT_SUPPORTED {
		return c.failed(ret)
	}
	values := []nvml.FieldValue{{FieldId: nvml.FI_DEV_GET_GPU_RECOVERY_ACTION}}
	switch ret := dev.GetFieldValues(values); {
	case gone(ret):
		return c.failed(ret)
	case ret != nvml.SUCCESS:
		return c
	}
	if ret := nvml.Return(values[0].NvmlReturn); gone(ret) {
		return c.failed(ret)
	} else if ret != nvml.SUCCESS {
		return c
	}
	// The action is an unsigned int; other types of values are read alike on a little-endian machine, which all with NVIDIA
	// GPUs are.
	switch n := binary.NativeEndian.Uint32(values[0].Value[:4]); {
	case int64(n) < int64(len(recoveries)):
		c.Recovery = recoveries[n]
	default:
		c.Recovery = fmt.Sprintf("action-%d", n)
	}
	return c
}

// failed is the condition of a GPU that answered with an error.
func (c Condition) failed(ret nvml.Return) Condition {
	c.Lost = gone(ret)
	c.Err = why(ret)
	if ret == nvml.ERROR_RESET_REQUIRED {
		c.Recovery = RecoveryGPUReset
	}
	return c
}
