package nvlink

import (
	"iter"
	"math/bits"
)

// Set is a set of the GPUs of a graph, by their positions in it: bit i for GPU i.
type Set uint64

// Of is the set of those GPUs, each from 0 to [MaxGPUs]-1.
func Of(gpus ...int) Set {
	var s Set
	for _, i := range gpus {
		s |= 1 << i
	}
	return s
}

// Len is how many they are.
func (s Set) Len() int { return bits.OnesCount64(uint64(s)) }

// Has reports whether the GPU is one of them.
func (s Set) Has(i int) bool { return s>>i&1 == 1 }

// First is the one of the lowest position, MaxGPUs when there is none.
func (s Set) First() int { return bits.TrailingZeros64(uint64(s)) }

// All are their positions, ascending.
func (s Set) All() iter.Seq[int] {
	return func(yield func(int) bool) {
		for ; s != 0; s &= s - 1 {
			if !yield(s.First()) {
				return
			}
		}
	}
}

// below is the set of all positions before i.
func below(i int) Set { return 1<<i - 1 }

// lowest is the k lowest of the set.
func (s Set) lowest(k int) Set {
	rest := s
	for range k {
		rest &= rest - 1
	}
	return s &^ rest
}

// compare orders sets by their lowest positions: the one that has the first position in which they differ comes first.
func (s Set) compare(o Set) int {
	switch differ := s ^ o; {
	case differ == 0:
		return 0
	case s.Has(differ.First()):
		return -1
	}
	return 1
}
