package quota

import "slices"

// FormatGPUHours is milli-GPU-seconds in GPU-hours, to the nearest thousandth: "12.5", and "unlimited" for NoLimit.
func FormatGPUHours(milliGPUSeconds int64) string { return hours(milliGPUSeconds, nearest) }

// HoldsBack reports whether the text is the name of a reason for which a job may not start, as it stands in conditions of pods.
func HoldsBack(reason string) bool { return slices.Contains(reasons[Admitted+1:], reason) }
