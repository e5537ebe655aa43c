// Package perf measures what Weft's plugins cost. A benchmark here alternates between a scheduler with the plugins and
// one without, in one run, on the same pods: machines differ and are noisy, so only the comparison means anything.
// Nothing here passes or fails by time.
package perf
