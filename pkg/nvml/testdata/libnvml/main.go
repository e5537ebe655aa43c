// Package main is a libnvidia-ml.so.1 of an old driver: it has only the functions that every driver has, and a node with one
// GPU. A program that calls another function of NVML's ends with a symbol lookup error, as it would on a node with such a
// driver.
package main

import "C"

import "unsafe"

func main() {}

const (
	success      = 0
	notSupported = 3
	invalid      = 2
)

// put writes a string of C into a buffer of n bytes.
func put(to unsafe.Pointer, n C.uint, s string) C.int {
	b := unsafe.Slice((*byte)(to), n)
	b[copy(b[:n-1], s)] = 0
	return success
}

func set[T any](to unsafe.Pointer, v T) C.int {
	*(*T)(to) = v
	return success
}

//export nvmlInit_v2
func nvmlInit_v2() C.int { return success }

//export nvmlShutdown
func nvmlShutdown() C.int { return success }

var unknown = C.CString("an error")

//export nvmlErrorString
func nvmlErrorString(C.int) *C.char { return unknown }

//export nvmlSystemGetDriverVersion
func nvmlSystemGetDriverVersion(to unsafe.Pointer, n C.uint) C.int { return put(to, n, "418.226.00") }

//export nvmlSystemGetNVMLVersion
func nvmlSystemGetNVMLVersion(to unsafe.Pointer, n C.uint) C.int { return put(to, n, "10.418.226.00") }

//export nvmlSystemGetCudaDriverVersion
func nvmlSystemGetCudaDriverVersion(to unsafe.Pointer) C.int { return set(to, C.int(10010)) }

//export nvmlDeviceGetCount_v2
func nvmlDeviceGetCount_v2(to unsafe.Pointer) C.int { return set(to, C.uint(1)) }

//export nvmlDeviceGetHandleByIndex_v2
func nvmlDeviceGetHandleByIndex_v2(index C.uint, to unsafe.Pointer) C.int {
	return set(to, unsafe.Pointer(unknown))
}

//export nvmlDeviceGetUUID
func nvmlDeviceGetUUID(device, to unsafe.Pointer, n C.uint) C.int {
	return put(to, n, "GPU-b850f46d-d5ea-c752-ddf3-c4453e44d3f7")
}

//export nvmlDeviceGetName
func nvmlDeviceGetName(device, to unsafe.Pointer, n C.uint) C.int { return put(to, n, "Tesla T4") }

//export nvmlDeviceGetMemoryInfo
func nvmlDeviceGetMemoryInfo(device, to unsafe.Pointer) C.int {
	return set(to, [3]uint64{15360 << 20, 15000 << 20, 360 << 20})
}

//export nvmlDeviceGetIndex
func nvmlDeviceGetIndex(device, to unsafe.Pointer) C.int { return set(to, C.uint(0)) }

//export nvmlDeviceGetMinorNumber
func nvmlDeviceGetMinorNumber(device, to unsafe.Pointer) C.int { return set(to, C.uint(4)) }

//export nvmlDeviceGetPciInfo_v3
func nvmlDeviceGetPciInfo_v3(device, to unsafe.Pointer) C.int {
	return put(unsafe.Add(to, 16+5*4), 32, "00000000:AF:00.0")
}

//export nvmlDeviceGetCudaComputeCapability
func nvmlDeviceGetCudaComputeCapability(device, major, minor unsafe.Pointer) C.int {
	set(major, C.int(7))
	return set(minor, C.int(5))
}

//export nvmlDeviceGetNvLinkState
func nvmlDeviceGetNvLinkState(unsafe.Pointer, C.uint, unsafe.Pointer) C.int { return notSupported }

//export nvmlDeviceGetNvLinkRemotePciInfo_v2
func nvmlDeviceGetNvLinkRemotePciInfo_v2(unsafe.Pointer, C.uint, unsafe.Pointer) C.int {
	return invalid
}

//export nvmlDeviceGetFieldValues
func nvmlDeviceGetFieldValues(unsafe.Pointer, C.int, unsafe.Pointer) C.int { return notSupported }

//export nvmlDeviceGetUtilizationRates
func nvmlDeviceGetUtilizationRates(device, to unsafe.Pointer) C.int {
	return set(to, [2]C.uint{12, 34})
}

//export nvmlDeviceGetPowerUsage
func nvmlDeviceGetPowerUsage(device, to unsafe.Pointer) C.int { return set(to, C.uint(9000)) }

//export nvmlDeviceGetComputeRunningProcesses
func nvmlDeviceGetComputeRunningProcesses(device, count, infos unsafe.Pointer) C.int {
	return set(count, C.uint(0))
}

//export nvmlDeviceGetGraphicsRunningProcesses
func nvmlDeviceGetGraphicsRunningProcesses(device, count, infos unsafe.Pointer) C.int {
	return set(count, C.uint(0))
}

//export nvmlDeviceGetProcessUtilization
func nvmlDeviceGetProcessUtilization(unsafe.Pointer, unsafe.Pointer, unsafe.Pointer, C.ulonglong) C.int {
	return notSupported
}

//export nvmlDeviceGetSupportedEventTypes
func nvmlDeviceGetSupportedEventTypes(device, to unsafe.Pointer) C.int {
	return set(to, C.ulonglong(8))
}

//export nvmlDeviceRegisterEvents
func nvmlDeviceRegisterEvents(unsafe.Pointer, C.ulonglong, unsafe.Pointer) C.int { return success }

//export nvmlEventSetCreate
func nvmlEventSetCreate(to unsafe.Pointer) C.int { return set(to, unsafe.Pointer(unknown)) }

//export nvmlEventSetFree
func nvmlEventSetFree(unsafe.Pointer) C.int { return success }

// Each wait has an Xid.
//
//export nvmlEventSetWait
func nvmlEventSetWait(events, to unsafe.Pointer, milliseconds C.uint) C.int {
	return set(to, struct {
		device     unsafe.Pointer
		kind, data C.ulonglong
	}{unsafe.Pointer(unknown), 8, 61})
}
