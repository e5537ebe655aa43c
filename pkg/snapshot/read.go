package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"

	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// ErrMalformed is wrapped by every error about what a document says, in difference to one about reading it.
var ErrMalformed = errors.New("malformed snapshot")

// maxBytes bounds what is read: a cluster of 50,000 pods has some 30 MiB.
const maxBytes = 1 << 30

// Read reads a document in JSON or YAML, and checks it. file stands in errors, each of which names the path of the field that is wrong.
func Read(r io.Reader, file string) (*Document, *Objects, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxBytes+1))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	d, o, err := parse(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", file, err)
	}
	return d, o, nil
}

func parse(text []byte) (*Document, *Objects, error) {
	if len(text) > maxBytes {
		return nil, nil, malformed("%s", fmt.Errorf("it has more than %d bytes", maxBytes))
	}
	if trimmed := bytes.TrimSpace(text); len(trimmed) == 0 {
		return nil, nil, malformed("%s", errors.New("it is empty"))
	} else if trimmed[0] != '{' {
		var err error
		if text, err = yaml.YAMLToJSONStrict(text); err != nil {
			return nil, nil, malformed("%s", err)
		}
	}
	if at := longNumber.Find(text); at != nil {
		return nil, nil, malformed("%s", fmt.Errorf("%s: want numbers with an exponent of at most two digits", clip(string(at))))
	}
	var d Document
	unknown, err := kjson.UnmarshalStrict(text, &d)
	if err == nil && d.APIVersion != APIVersion || d.Kind != Kind && err == nil {
		return nil, nil, malformed("%s", fmt.Errorf("apiVersion is %q and kind is %q: want %q and %q; what `weft snapshot` printed",
			clip(d.APIVersion), clip(d.Kind), APIVersion, Kind))
	}
	if err = cmpErr(err, unknown); err != nil {
		return nil, nil, malformed("%s", err)
	}
	if err := d.check(); err != nil {
		return nil, nil, err
	}
	o, err := d.Objects()
	if err != nil {
		return nil, nil, err
	}
	return &d, o, nil
}

// cmpErr is the first error there is.
func cmpErr(err error, others []error) error {
	if err == nil && len(others) > 0 {
		return others[0]
	}
	return err
}

// longNumber is a number, by itself or as a whole text, with an exponent that takes seconds to parse as an amount, or all memory; or an
// escape that would hide one, which nobody needs.
var longNumber = regexp.MustCompile(`(?:[:\[,"]\s*[-+]?[0-9.]+[eE][+-]?0*[1-9][0-9]{2,}["\s,\]}])|\\u00(?:[46]5|3[0-9])`)

func malformed(format string, err error) error {
	return fmt.Errorf("%w: "+format, ErrMalformed, err)
}

// check reports the first thing that contradicts itself.
func (d *Document) check() error {
	names := map[string]string{}
	once := func(path, what string, args ...any) error {
		name := fmt.Sprintf(what, args...)
		if before, twice := names[name]; twice {
			return malformed("%s", fmt.Errorf("%s is %s, as %s is: want each once", path, clip(name), before))
		}
		names[name] = path
		return nil
	}
	var err error
	first := func(e error) {
		if err == nil {
			err = e
		}
	}
	present := func(path, value string) {
		if value == "" {
			first(malformed("%s", fmt.Errorf("%s is empty: want a value", path)))
		}
	}
	for i, n := range d.Nodes {
		present(fmt.Sprintf("nodes[%d].name", i), n.Name)
		first(once(fmt.Sprintf("nodes[%d].name", i), "node %s", n.Name))
	}
	for i, p := range d.Pods {
		present(fmt.Sprintf("pods[%d].name", i), p.Name)
		present(fmt.Sprintf("pods[%d].uid", i), p.UID)
		first(once(fmt.Sprintf("pods[%d].uid", i), "pod uid %s", p.UID))
		for j, c := range p.Containers {
			present(fmt.Sprintf("pods[%d].containers[%d].name", i, j), c.Name)
		}
	}
	for i, g := range d.PodGroups {
		first(once(fmt.Sprintf("podGroups[%d]", i), "PodGroup %s/%s", g.Namespace, g.Name))
	}
	for i, g := range d.NativePodGroups {
		first(once(fmt.Sprintf("nativePodGroups[%d]", i), "PodGroup of scheduling.k8s.io %s/%s", g.Namespace, g.Name))
	}
	for i, q := range d.Queues {
		present(fmt.Sprintf("queues[%d].name", i), q.Name)
		first(once(fmt.Sprintf("queues[%d].name", i), "queue %s", q.Name))
	}
	for i, c := range d.Classes {
		first(once(fmt.Sprintf("classes[%d].name", i), "GPUClass %s", c.Name))
	}
	for i, n := range d.Namespaces {
		first(once(fmt.Sprintf("namespaces[%d].name", i), "namespace %s", n.Name))
	}
	return err
}

// clip keeps what an error repeats of a document short.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
