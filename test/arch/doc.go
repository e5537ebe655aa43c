// Package arch holds the tests of the repository's architecture: which package may import which, what the pure core may
// not do, and which names no package may have. The rules and their reasons are the table in rules_test.go; that each of
// them bites is shown by the broken trees in broken_test.go.
//
// The check parses the files itself instead of asking `go list`: it then sees the files of every platform and build tag,
// and it needs no compiled dependency, so it takes well under a second.
package arch
