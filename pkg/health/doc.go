// Package health decides whether a GPU is fit to be given out, from what the driver reports: critical errors as they happen (Xid
// events) and what it answers when it is asked, every few seconds (polls).
//
// The hard part is recovery. An error event says that something broke and nothing says that it is mended, so a GPU that had one is
// in quarantine: until the driver has said for a while that it wants no recovery action, or, where the driver cannot say that, until
// nothing more has happened for longer. Each failure soon after a recovery doubles the quarantine, up to a limit.
//
// The package is pure: it reads no clock and knows no driver.
package health
