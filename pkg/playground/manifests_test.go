package playground

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"weft.sh/weft/manifests"
)

func TestLastAppliedIsTheObject(t *testing.T) {
	objects, err := Render(manifests.FS, ".")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		annotated, err := withLastApplied(o)
		if err != nil {
			t.Fatal(err)
		}
		text, ok := annotated.GetAnnotations()[corev1.LastAppliedConfigAnnotation]
		if !ok || o.GetAnnotations()[corev1.LastAppliedConfigAnnotation] != "" {
			t.Errorf("%s %s: want the annotation in the copy only", o.GetKind(), o.GetName())
		}
		before, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		got, err := yaml.JSONToYAML([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(before), string(got)); diff != "" {
			t.Errorf("%s %s (-object +annotation):\n%s", o.GetKind(), o.GetName(), diff)
		}
	}
}
