package snapshot

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"sigs.k8s.io/yaml"
)

// writer writes one object with fields and lists, piece by piece, in JSON or YAML. It keeps the first error.
type writer struct {
	w    *bufio.Writer
	yaml bool
	err  error
	// fields and items count what was written, list is the one that is being written.
	fields, items int
	list          string
}

func newWriter(w io.Writer, yaml bool) *writer {
	return &writer{w: bufio.NewWriterSize(w, 1<<16), yaml: yaml}
}

func (w *writer) print(format string, args ...any) {
	if w.err == nil {
		_, w.err = fmt.Fprintf(w.w, format, args...)
	}
}

// key begins a field.
func (w *writer) key(name string) {
	switch {
	case w.yaml:
		w.print("%s:", name)
	case w.fields == 0:
		w.print("{\n%q:", name)
	default:
		w.print(",\n%q:", name)
	}
	w.fields++
}

// field writes a field with a value of a line.
func (w *writer) field(name string, value any) {
	text, err := json.Marshal(value) // which is YAML too
	if err != nil && w.err == nil {
		w.err = err
	}
	w.key(name)
	w.print(" %s", text)
	if w.yaml {
		w.print("\n")
	}
}

// begin begins a list, item adds to it, end ends it.
func (w *writer) begin(name string) { w.list, w.items = name, 0 }

func (w *writer) item(value any) error {
	if w.items == 0 {
		w.key(w.list)
		if !w.yaml {
			w.print(" [")
		}
		w.print("\n")
	} else if !w.yaml {
		w.print(",\n")
	}
	w.items++
	text, err := json.Marshal(value)
	if err == nil && w.yaml {
		text, err = yaml.JSONToYAML(text)
	}
	if err != nil {
		return err
	}
	if w.yaml {
		text = append([]byte("- "), bytes.ReplaceAll(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"), []byte("\n  "))...)
		text = append(text, '\n')
	}
	if w.err == nil {
		_, w.err = w.w.Write(text)
	}
	return w.err
}

func (w *writer) end() {
	switch {
	case w.items == 0:
		w.field(w.list, []string{})
	case !w.yaml:
		w.print("\n]")
	}
}

func (w *writer) close() error {
	if !w.yaml {
		w.print("\n}\n")
	}
	if w.err != nil {
		return w.err
	}
	return w.w.Flush()
}
