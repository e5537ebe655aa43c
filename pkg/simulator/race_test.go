//go:build race

package simulator

// underRace: the race detector makes everything some ten times slower.
const underRace = true
