package cli

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// style is how to write on what the output goes to.
type style struct {
	colour bool
	ascii  bool
}

// Colours, as SGR codes of terminals. Only the eight that every terminal has, so that its own theme decides.
const (
	colourRed     = "31"
	colourGreen   = "32"
	colourYellow  = "33"
	colourBlue    = "34"
	colourMagenta = "35"
	colourBold    = "1"
	colourDim     = "2"
)

// paint colours the text, if there is colour.
func (s style) paint(colour, text string) string {
	if !s.colour || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// plain stands in for what is not ASCII.
var plain = strings.NewReplacer("…", "~", "·", "-", "×", "x", "→", ">")

// finish makes the text fit for what it goes to.
func (s style) finish(text string) string {
	if s.ascii {
		return plain.Replace(text)
	}
	return text
}

// bar is a bar so many cells wide, filled to perMille (more than 1000 is full).
func (s style) bar(perMille int64, width int) string {
	perMille = min(max(perMille, 0), 1000)
	if s.ascii {
		full := int(perMille * int64(width) / 1000)
		return strings.Repeat("#", full) + strings.Repeat("-", width-full)
	}
	// A cell has eight steps. What is not quite empty, or not quite full, never looks so.
	const steps = 8
	n := int(perMille * int64(width) * steps / 1000)
	if perMille > 0 {
		n = max(n, 1)
	}
	full := strings.Repeat("█", n/steps)
	if n%steps > 0 {
		full += string([]rune("▏▎▍▌▋▊▉")[n%steps-1])
	}
	return full + strings.Repeat("·", width-utf8.RuneCountInString(full))
}

// pad fills the text up with blanks to the width, counted in characters.
func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}

// padLeft is pad with the blanks before the text, for numbers.
func padLeft(text string, width int) string {
	return strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text))) + text
}

// shorten cuts the middle out of a text that is longer than width, for of a node's name both ends tell it apart.
func shorten(text string, width int) string {
	r := []rune(text)
	if len(r) <= width || width < 3 {
		return text
	}
	head := (width - 1) / 2
	return string(r[:head]) + "…" + string(r[len(r)-(width-1-head):])
}

// percent prints thousandths as a percentage with one decimal: "61.3%".
func percent(perMille int64) string { return fmt.Sprintf("%d.%d%%", perMille/10, perMille%10) }

// gpus prints milli-GPU as GPUs, rounded to hundredths: "3", "2.5", "0.25".
func gpus(milliGPU int64) string {
	hundredths := (milliGPU + 5) / 10
	s := fmt.Sprintf("%d.%02d", hundredths/100, hundredths%100)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// gibibytes prints MiB as GiB, rounded: "80 GiB"; what is less than 10 GiB keeps a decimal.
func gibibytes(memoryMiB int64) string {
	if memoryMiB < 10*1024 {
		tenths := (memoryMiB*10 + 512) / 1024
		return fmt.Sprintf("%d.%d GiB", tenths/10, tenths%10)
	}
	return fmt.Sprintf("%d GiB", (memoryMiB+512)/1024)
}

// count prints a number with its noun: "1 node", "3 nodes".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// waysText says of the GPUs of a node how many are not given in both ways: ", 2 whole only, 6 shared only".
func waysText(wholeOnly, sharedOnly int) string {
	s := ""
	if wholeOnly > 0 {
		s += fmt.Sprintf(", %d whole only", wholeOnly)
	}
	if sharedOnly > 0 {
		s += fmt.Sprintf(", %d shared only", sharedOnly)
	}
	return s
}

// table lines up columns. The last one is not padded; columns named in right are aligned to the right.
type table struct {
	header []string
	right  []int
	rows   [][]string
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// drop takes a column out. It must be there.
func (t *table) drop(column string) {
	i := slices.Index(t.header, column)
	t.header = slices.Delete(t.header, i, i+1)
	for r := range t.rows {
		t.rows[r] = slices.Delete(t.rows[r], i, i+1)
	}
	t.right = slices.DeleteFunc(t.right, func(c int) bool { return c == i })
	for r := range t.right {
		if t.right[r] > i {
			t.right[r]--
		}
	}
}

// dropEmpty takes a column out if it has nothing in any row.
func (t *table) dropEmpty(column string) {
	i := slices.Index(t.header, column)
	if !slices.ContainsFunc(t.rows, func(row []string) bool { return row[i] != "" }) {
		t.drop(column)
	}
}

// lines are the table's, the header first, each indented.
func (t *table) lines(s style, indent string) []string {
	widths := make([]int, len(t.header))
	for _, row := range append([][]string{t.header}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	format := func(row []string) string {
		cells := make([]string, len(row))
		for i, cell := range row {
			if slices.Contains(t.right, i) {
				cells[i] = padLeft(cell, widths[i])
			} else {
				cells[i] = pad(cell, widths[i])
			}
		}
		return strings.TrimRight(indent+strings.Join(cells, "  "), " ")
	}
	out := []string{s.paint(colourDim, format(t.header))}
	for _, row := range t.rows {
		out = append(out, format(row))
	}
	return out
}
