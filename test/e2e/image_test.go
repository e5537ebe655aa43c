//go:build linux

package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
)

// The images. No registry has them: they are made here and given to containerd. Both hold one static program and differ
// in what they run.
const (
	workloadImage = "weft.sh/e2e/workload:1"
	sandboxImage  = "weft.sh/e2e/sandbox:1"
)

// descriptor is what the OCI image format calls by that name.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// writeImages writes an OCI archive with both images to file.
func writeImages(file, program string) error {
	binary, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	var layer bytes.Buffer
	if err := writeTar(&layer, []tarFile{{"workload", 0o755, binary}}); err != nil {
		return err
	}
	files := []tarFile{{"oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)}}
	add := func(mediaType string, content []byte) descriptor {
		sum := sha256.Sum256(content)
		name := hex.EncodeToString(sum[:])
		files = append(files, tarFile{"blobs/sha256/" + name, 0o644, content})
		return descriptor{MediaType: mediaType, Digest: "sha256:" + name, Size: len(content)}
	}
	const oci = "application/vnd.oci.image."
	layerOf := add(oci+"layer.v1.tar", layer.Bytes())
	var manifests []descriptor
	for name, entrypoint := range map[string][]string{
		workloadImage: {"/workload"},
		sandboxImage:  {"/workload", "pause"},
	} {
		config, err := json.Marshal(map[string]any{
			"architecture": runtime.GOARCH,
			"os":           "linux",
			"config":       map[string]any{"Entrypoint": entrypoint},
			"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{layerOf.Digest}},
		})
		if err != nil {
			return err
		}
		manifest, err := json.Marshal(map[string]any{
			"schemaVersion": 2,
			"mediaType":     oci + "manifest.v1+json",
			"config":        add(oci+"config.v1+json", config),
			"layers":        []descriptor{layerOf},
		})
		if err != nil {
			return err
		}
		m := add(oci+"manifest.v1+json", manifest)
		m.Annotations = map[string]string{"io.containerd.image.name": name}
		manifests = append(manifests, m)
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": manifests})
	if err != nil {
		return err
	}
	files = append(files, tarFile{"index.json", 0o644, index})
	var archive bytes.Buffer
	if err := writeTar(&archive, files); err != nil {
		return err
	}
	return os.WriteFile(file, archive.Bytes(), 0o644)
}

type tarFile struct {
	name    string
	mode    int64
	content []byte
}

func writeTar(to *bytes.Buffer, files []tarFile) error {
	w := tar.NewWriter(to)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content))}); err != nil {
			return fmt.Errorf("tar %s: %w", f.name, err)
		}
		if _, err := w.Write(f.content); err != nil {
			return fmt.Errorf("tar %s: %w", f.name, err)
		}
	}
	return w.Close()
}
