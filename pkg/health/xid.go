package health

import "fmt"

// applicationXids are errors that a program makes and the GPU survives: NVIDIA's device plugin ignores them too. Meanings as in NVIDIA's
// Xid catalogue.
var applicationXids = map[uint64]bool{
	13:  true, // graphics engine exception
	31:  true, // memory page fault
	43:  true, // the program was stopped, the GPU goes on
	45:  true, // the program's work was removed, mostly after another error
	68:  true, // NVDEC exception
	109: true, // context switch timeout
}

// xids says what the best-known critical errors mean.
var xids = map[uint64]string{
	48:  "double-bit ECC error",
	62:  "internal micro-controller halt",
	63:  "memory page retirement or row remapping",
	64:  "memory page retirement or row remapping failed",
	74:  "NVLink error",
	79:  "the GPU has fallen off the bus",
	92:  "high rate of single-bit ECC errors",
	94:  "contained memory error",
	95:  "uncontained memory error",
	119: "the GPU system processor does not answer",
	120: "error of the GPU system processor",
	140: "unrecovered ECC error",
	145: "NVLink error",
}

// Describe is an Xid in words: "Xid 79: the GPU has fallen off the bus".
func Describe(xid uint64) string {
	if what, ok := xids[xid]; ok {
		return fmt.Sprintf("Xid %d: %s", xid, what)
	}
	return fmt.Sprintf("Xid %d", xid)
}
