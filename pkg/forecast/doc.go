// Package forecast says how much GPU time will be wanted, and what has to be bought for it.
//
// # Vocabulary
//
// A series is an amount for each bucket, an hour or a day, that follow each other: milli-GPU-seconds. A bucket of which nothing is
// known is [Missing], which is not 0. A season is after how many buckets the pattern repeats. An origin is a bucket after which a
// forecast was made of what came before it alone, to be compared with what came then; the horizon is how many buckets it looks ahead.
//
// # Models
//
//   - last: every bucket will be as the last one that is known.
//   - seasonal: every bucket will be as the one a season before (of which a missing one is as the one a season before that).
//   - holt-winters: level, damped trend and additive season, by exponential smoothing.
//
// # Honesty
//
// Every model makes its forecasts at the same origins, and what it missed there is its WAPE: the sum of the misses over the sum of
// what came. The one of the lowest counts, and of equal ones the simplest. The WAPE of last stands beside it, always: a model that does
// not beat it knows nothing. P50 and P90 are the forecast with the quantiles of what it missed at the origins, so many buckets ahead.
// What is too short for a model leaves it out and says so.
//
// Amounts are integers. Floats are inside of the models only, and the same series gives the same forecast.
//
// The package is pure: no clock, no client, no log.
package forecast
