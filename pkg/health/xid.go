package health

import "fmt"

// Xid is an error event.
type Xid struct {
	Number uint64 `json:"number"`
	// Nameless: it was not said which GPU has the error, so that it may be this one.
	Nameless bool `json:"nameless,omitempty"`
}

func (x Xid) String() string {
	if x.Nameless {
		return Describe(x.Number) + " (NVML does not say of which GPU, so it may be any)"
	}
	return Describe(x.Number)
}

// The numbers and meanings are those of NVIDIA's Xid catalogue (docs.nvidia.com/deploy/xid-errors, "Analyzing Xid Errors with the Xid
// Catalog", for driver 580), the meanings in our words.

// harmless are Xids after which the GPU is as good as before.
var harmless = map[uint64]bool{
	// Errors of the program, which NVIDIA's device plugin ignores too (internal/rm/health.go in v0.20).
	13: true, // exception of the graphics engine: most often an access outside an array
	31: true, // page fault: most often an illegal address
	43: true, // the program was stopped for a fault of its own
	45: true, // the program's work was removed; where that has another cause, another Xid tells
	68: true, // exception of the video decoder
	// The catalogue advises to reset the GPU after this one. Where that is so, the driver says so at the next poll.
	109: true, // context switch timeout

	// Errors after which the catalogue advises to start the program again, and to look for the fault in it.
	11:  true, // invalid command stream
	25:  true, // illegal command stream
	69:  true, // class error of the graphics engine
	137: true, // illegal access to another GPU's memory over NVLink

	// What the catalogue advises to ignore: nothing has to be done for the next program to run.
	14:  true, // made by a program on purpose, for a test
	37:  true, // firmware was asked for what it does not know
	38:  true, // watchdog of the firmware
	44:  true, // fault while programs were switched
	63:  true, // a memory row is to be replaced, at the next reset
	66:  true, // illegal access by the driver
	67:  true, // illegal access by the driver
	92:  true, // many single-bit errors, all corrected
	93:  true, // the wear limit of the board's memory for settings was reached
	106: true, // test message
	107: true, // test message
	108: true, // failed translation over NVLink
	121: true, // corrected errors of the link to the CPU
	141: true, // error of CUDA's fast path
	// It tells what polls tell, and comes as well when nothing is to be done any more.
	154: true, // the recovery action that the driver wants has changed
	157: true, // no spare is left for what is worn
	160: true, // a memory channel was retired
	161: true, // a memory channel could not be retired
	162: true, // power smoothing is on again
	163: true, // power smoothing is off
	164: true, // power smoothing will not last for long
	165: true, // power smoothing is worn out
}

// meanings says what the critical errors mean that can be expected.
var meanings = map[uint64]string{
	8:   "the GPU has stopped processing",
	32:  "corrupted command stream, often by PCIe",
	46:  "the GPU has stopped processing",
	48:  "double-bit ECC error",
	54:  "auxiliary power is not connected",
	62:  "internal micro-controller halt",
	64:  "a faulty memory row could not be replaced",
	74:  "NVLink error",
	79:  "the GPU has fallen off the bus",
	80:  "corrupted data sent to the GPU",
	94:  "contained memory error",
	95:  "uncontained memory error",
	110: "security fault",
	119: "the GPU system processor (GSP) does not answer",
	120: "error of the GPU system processor (GSP)",
	136: "link training failed",
	140: "unrecovered ECC error",
	143: "the GPU could not be initialised",
	144: "NVLink error (SAW)",
	145: "NVLink error (RLW)",
	146: "NVLink error (TLW)",
	147: "NVLink error (TREX)",
	148: "NVLink error (NVLPW)",
	149: "NVLink error (NETIR)",
	150: "NVLink error (MSE)",
	151: "key rotation error",
	155: "an NVLink is down",
	156: "a worn part is to be retired",
	158: "fatal timeout",
	167: "fatal PCIe timeout",
	169: "internal micro-controller halt",
	171: "uncorrectable DRAM error",
	172: "uncorrectable SRAM error",
	// nvml.h gives this number for what the driver has no number for.
	999: "an error that the driver does not name",
}

// Describe is an Xid in words: "Xid 79: the GPU has fallen off the bus".
func Describe(xid uint64) string {
	if what, ok := meanings[xid]; ok {
		return fmt.Sprintf("Xid %d: %s", xid, what)
	}
	return fmt.Sprintf("Xid %d", xid)
}
