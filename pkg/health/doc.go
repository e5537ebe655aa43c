// Package health decides whether a GPU is fit to be given out, from what the driver reports: critical errors as they happen (Xid
// events) and what it answers when it is asked, every few seconds (polls).
//
// The hard part is recovery. An error event says that something broke and nothing says that it is mended, so a GPU that had one is
// in quarantine: until the driver has said for a while that it wants no recovery action, or, where the driver cannot say that, until
// nothing more has happened for longer. A GPU that fails again soon after it recovered, in whatever way, stays in quarantine twice as
// long as the last time, up to a limit.
//
// # What it does not do
//
// It resets nothing and ends no program. It knows nothing of MIG instances: an error of one of them is the whole GPU's, for the
// recovery that the driver wants is. What it knows is lost with the process, except what the driver still says.
//
// The package is pure: it reads no clock and knows no driver.
package health
