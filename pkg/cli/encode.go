package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// validOutput checks the value of -o.
func validOutput(output string, accepted ...string) error {
	if output == "" || slices.Contains(accepted, output) {
		return nil
	}
	return fmt.Errorf("--output is %q: want one of %s", output, strings.Join(accepted, ", "))
}

// encode prints the value as JSON or YAML, with the same fields.
func encode(w io.Writer, format string, value any) error {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false) // nobody puts it into a page, and messages have < and >
	e.SetIndent("", "  ")
	if err := e.Encode(value); err != nil {
		return err
	}
	out := buf.Bytes()
	if format == "yaml" {
		var err error
		if out, err = yaml.JSONToYAML(out); err != nil {
			return err
		}
	}
	_, err := w.Write(out)
	return err
}

func hasName(name string) func(*v1.Node) bool {
	return func(n *v1.Node) bool { return n.Name == name }
}
