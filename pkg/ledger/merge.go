package ledger

import (
	"fmt"
	"maps"
	"math"
	"math/bits"
	"strings"
	"unicode/utf8"
)

// maxTime is the last moment that the ledger knows, in the year 10680. What a clock says after that is a mistake.
const maxTime int64 = 1 << 38

// validate says what a segment contradicts in itself.
func (s *Segment) validate() error {
	problem := ""
	switch {
	case s.PodUID == "":
		problem = "it has no pod UID"
	case s.Number < 0:
		problem = "its number is negative"
	case s.MilliGPU < 0 || s.Rate < 0 || s.PriceMicros < 0:
		problem = fmt.Sprintf("milli-GPU %d, rate %d and price %d have to be 0 or more", s.MilliGPU, s.Rate, s.PriceMicros)
	case s.Start <= 0 || s.Through < s.Start || s.Through > maxTime:
		problem = fmt.Sprintf("it begins at %d and is charged to %d: want 0 < begin <= charged to <= %d", s.Start, s.Through, maxTime)
	case s.End == 0 && (s.Estimated || s.Closed != ""):
		problem = "it is open, and has an estimated end or evidence of it"
	case s.End != 0 && s.End != s.Through:
		problem = fmt.Sprintf("it ended at %d and is charged to %d, which has to be the same", s.End, s.Through)
	case !fits(s.MilliGPU, s.Through-s.Start) || !fits(s.Rate, s.Through-s.Start):
		problem = fmt.Sprintf("milli-GPU %d or rate %d for %d s do not fit 64 bits", s.MilliGPU, s.Rate, s.Through-s.Start)
	default:
		for _, text := range [...]string{
			s.PodUID, s.Namespace, s.Pod, s.Node, s.Queue, s.User, s.Workload, s.Class, s.Product, s.Profile, s.Currency, s.Closed,
		} {
			if !storable(text) {
				problem = fmt.Sprintf("%q is not UTF-8, or has a NUL", text)
			}
		}
		for key, value := range s.Labels {
			if !storable(key) || !storable(value) {
				problem = fmt.Sprintf("label %q: %q is not UTF-8, or has a NUL", key, value)
			}
		}
	}
	if problem == "" {
		return nil
	}
	return &SegmentError{PodUID: s.PodUID, Number: s.Number, Kind: ErrInvalid, Problem: problem}
}

// storable reports whether both databases take the text. PostgreSQL takes no NUL.
func storable(text string) bool { return utf8.ValidString(text) && strings.IndexByte(text, 0) < 0 }

// fits reports whether the product of two numbers that are not negative is an int64.
func fits(a, b int64) bool {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	return hi == 0 && lo <= math.MaxInt64
}

// merge is what is known of a segment after two states of it, whichever came first: merge(a, b) and merge(b, a) are the same, and
// merging one again changes nothing. See Store.Commit for the order.
func merge(known, given *Segment) (merged Segment, err error) {
	if problem := contradiction(known, given); problem != "" {
		return Segment{}, &SegmentError{PodUID: given.PodUID, Number: given.Number, Kind: ErrConflict, Problem: problem}
	}
	later := known
	switch {
	case known.End == 0 && given.End == 0:
		if given.Through > known.Through {
			later = given
		}
	case known.End == 0 || given.End == 0:
		if known.End == 0 {
			later = given
		}
	case known.Estimated != given.Estimated:
		if known.Estimated {
			later = given
		}
	case given.End < known.End || given.End == known.End && given.Closed < known.Closed:
		later = given
	}
	merged = *known
	merged.Through, merged.End, merged.Estimated, merged.Closed = later.Through, later.End, later.Estimated, later.Closed
	return merged, nil
}

// contradiction is the first field in which two states of a segment differ that may not, with both values.
func contradiction(known, given *Segment) string {
	for _, text := range [...]struct{ field, known, given string }{
		{"namespace", known.Namespace, given.Namespace},
		{"pod", known.Pod, given.Pod},
		{"node", known.Node, given.Node},
		{"queue", known.Queue, given.Queue},
		{"user", known.User, given.User},
		{"workload", known.Workload, given.Workload},
		{"class", known.Class, given.Class},
		{"product", known.Product, given.Product},
		{"profile", known.Profile, given.Profile},
		{"currency", known.Currency, given.Currency},
	} {
		if text.known != text.given {
			return fmt.Sprintf("%s is %q on the books, %q was given", text.field, text.known, text.given)
		}
	}
	for _, number := range [...]struct {
		field        string
		known, given int64
	}{
		{"start", known.Start, given.Start},
		{"milli-GPU", known.MilliGPU, given.MilliGPU},
		{"rate", known.Rate, given.Rate},
		{"price", known.PriceMicros, given.PriceMicros},
	} {
		if number.known != number.given {
			return fmt.Sprintf("%s is %d on the books, %d was given", number.field, number.known, number.given)
		}
	}
	switch {
	case known.Startup != given.Startup:
		return fmt.Sprintf("startup is %t on the books, %t was given", known.Startup, given.Startup)
	case known.Charged != given.Charged:
		return fmt.Sprintf("charged is %t on the books, %t was given", known.Charged, given.Charged)
	case !maps.Equal(known.Labels, given.Labels):
		return fmt.Sprintf("labels are %v on the books, %v were given", known.Labels, given.Labels)
	}
	return ""
}
