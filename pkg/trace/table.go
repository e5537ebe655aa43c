package trace

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// ErrMalformed is wrapped by every error about what a list says, in difference to one about reading it.
var ErrMalformed = errors.New("malformed list")

// Error is something wrong in a list. It wraps ErrMalformed.
type Error struct {
	File string
	// Line counts from 1, the header included; 0 when the error is about the file as a whole.
	Line int
	// Column is the name of the column, empty when the error is about the row as a whole.
	Column string
	// Problem says what was found and what is accepted.
	Problem string
}

// Error is file:line: column problem.
func (e *Error) Error() string {
	s := ErrMalformed.Error() + ": " + e.File
	if e.Line > 0 {
		s += ":" + strconv.Itoa(e.Line)
	}
	s += ": "
	if e.Column != "" {
		s += e.Column + " "
	}
	return s + e.Problem
}

// Unwrap is ErrMalformed.
func (*Error) Unwrap() error { return ErrMalformed }

// table reads a CSV file with a header, row by row. The first error ends it.
type table struct {
	csv    *csv.Reader
	file   string
	column map[string]int
	row    []string
	err    error
}

// newTable reads the header, which must have the required columns and may have the optional ones, in any order.
func newTable(r io.Reader, file string, required, optional []string) (*table, error) {
	t := &table{csv: csv.NewReader(r), file: file, column: map[string]int{}}
	t.csv.FieldsPerRecord = -1 // checked here, for a message that says what is missing
	t.csv.ReuseRecord = true
	header, err := t.csv.Read()
	if errors.Is(err, io.EOF) {
		return nil, &Error{File: file, Problem: "is empty: want a header with " + strings.Join(required, ",")}
	}
	if err != nil {
		return nil, t.readError(err)
	}
	known := slices.Concat(required, optional)
	for i, name := range header {
		name = strings.TrimSpace(strings.TrimPrefix(name, "\ufeff"))
		if _, twice := t.column[name]; twice {
			return nil, &Error{file, 1, "", fmt.Sprintf("column %q stands twice", clip(name))}
		}
		if !slices.Contains(known, name) {
			return nil, &Error{file, 1, "", fmt.Sprintf("column %q is not known: want %s", clip(name), strings.Join(known, ","))}
		}
		t.column[name] = i
	}
	for _, name := range required {
		if _, ok := t.column[name]; !ok {
			return nil, &Error{file, 1, "", fmt.Sprintf("column %s is missing: want %s", name, strings.Join(required, ","))}
		}
	}
	return t, nil
}

// rows are the rows of a list, each made by read from the table. The first error ends them.
func rows[T any](r io.Reader, file string, required, optional []string, read func(*table) T) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		t, err := newTable(r, file, required, optional)
		if err != nil {
			yield(none, err)
			return
		}
		for t.next() {
			v := read(t)
			if t.err != nil {
				break
			}
			if !yield(v, nil) {
				return
			}
		}
		if t.err != nil {
			yield(none, t.err)
		}
	}
}

// readError tells a file that cannot be read from one that is no CSV.
func (t *table) readError(err error) error {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return &Error{t.file, parse.Line, "", parse.Err.Error()}
	}
	return fmt.Errorf("%s: %w", t.file, err)
}

// next reads a row; it is false at the end and after an error.
func (t *table) next() bool {
	row, err := t.csv.Read()
	if errors.Is(err, io.EOF) {
		return false
	}
	if err != nil {
		t.err = t.readError(err)
		return false
	}
	t.row = row
	if len(row) != len(t.column) {
		t.fail("", "%d fields: want %d, as in the header", len(row), len(t.column))
		return false
	}
	return true
}

func (t *table) fail(column, format string, args ...any) {
	if t.err == nil {
		t.err = &Error{t.file, t.line(), column, fmt.Sprintf(format, args...)}
	}
}

func (t *table) line() int {
	line, _ := t.csv.FieldPos(0)
	return line
}

// text is a field, empty where the list has no such column.
func (t *table) text(column string) string {
	i, ok := t.column[column]
	if !ok {
		return ""
	}
	return strings.TrimSpace(t.row[i])
}

// number is a whole number in the range.
func (t *table) number(column string, least, most int64) int64 {
	s := t.text(column)
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < least || n > most {
		t.fail(column, "is %q: want a whole number from %d to %d", clip(s), least, most)
		return least
	}
	return n
}

// name is a field that names an object of Kubernetes.
func (t *table) name(column string) string {
	s := t.text(column)
	// A label's length, because a node's name is also the label kubernetes.io/hostname.
	if msgs := validation.IsDNS1123Label(s); len(msgs) > 0 {
		t.fail(column, "is %q: %s", clip(s), msgs[0])
	}
	return strings.Clone(s) // the row's memory is that of the whole row
}

// model is the name of a GPU model, which becomes the value of a label.
func (t *table) model(column, model string) {
	if msgs := validation.IsValidLabelValue(model); model == "" || len(msgs) > 0 {
		t.fail(column, "is %q: want models of letters, digits, -, _ and .", clip(t.text(column)))
	}
}

// clip keeps what an error repeats of a file short.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// Named is a row that has a name of its own.
type Named interface {
	named() (name string, line int)
}

// Collect reads a list into memory, at most limit rows from the start, all when limit is 0. file stands in errors. That no
// name stands twice is checked here and not by the readers, because it takes memory for every name.
func Collect[T Named](list iter.Seq2[T, error], file, column string, limit int) ([]T, error) {
	var out []T
	lines := map[string]int{}
	for v, err := range list {
		if err != nil {
			return nil, err
		}
		name, line := v.named()
		if before, ok := lines[name]; ok {
			return nil, &Error{file, line, column, fmt.Sprintf("is %q, as in line %d: want each name once", name, before)}
		}
		lines[name] = line
		if out = append(out, v); len(out) == limit {
			break
		}
	}
	return out, nil
}
