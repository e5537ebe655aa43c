package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// number is v with commas between the thousands.
func number(v float64, decimals int) string {
	s := strconv.FormatFloat(math.Abs(v), 'f', decimals, 64)
	whole, fraction, _ := strings.Cut(s, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction != "" {
		whole += "." + fraction
	}
	if v < 0 && strings.ContainsAny(whole, "123456789") {
		return "−" + whole
	}
	return whole
}

// unit sets a unit behind a number, with a space that does not break.
func unit(s, of string) string {
	if of == "" {
		return s
	}
	return s + "\u00a0" + of
}

// duration is seconds in the unit that makes them readable.
func duration(seconds float64) string {
	for _, u := range []struct {
		seconds float64
		name    string
	}{{86400, "d"}, {3600, "h"}, {60, "min"}} {
		if seconds >= u.seconds {
			return unit(short(seconds/u.seconds), u.name)
		}
	}
	return unit(short(seconds), "s")
}

// short is v with one decimal place, and none where it says nothing.
func short(v float64) string {
	if v >= 100 {
		return number(v, 0)
	}
	return strings.TrimSuffix(number(v, 1), ".0")
}

// ticks are up to about count round numbers from at most low to at least high, and the number of decimals they need.
func ticks(low, high float64, count int) (at []float64, decimals int) {
	if high-low < 1e-9*max(1, math.Abs(low), math.Abs(high)) {
		high = low + max(1, math.Abs(low))
	}
	step := math.Pow(10, math.Floor(math.Log10((high-low)/float64(count))))
	for _, by := range []float64{2, 2.5, 2} { // 2, 5 and 10 times the power of ten
		if (high-low)/step <= float64(count) {
			break
		}
		step *= by
	}
	for i := math.Floor(low/step + 1e-9); ; i++ {
		at = append(at, i*step)
		if i*step >= high-step*1e-9 {
			break
		}
	}
	return at, max(0, -int(math.Floor(math.Log10(step)+1e-9)))
}

// coordinate is a place in a drawing.
func coordinate(v float64) string {
	return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return fmt.Sprintf("1 %s", one)
	}
	return number(float64(n), 0) + " " + many
}
