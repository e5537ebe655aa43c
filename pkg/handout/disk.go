package handout

import (
	"os"
	"path/filepath"
)

// disk is everything that the package does to files. It is an interface so that a test can end it at every step.
type disk interface {
	Read(path string) ([]byte, error)
	// List is the names in the folder.
	List(folder string) ([]string, error)
	MakeFolder(folder string) error
	Write(path string, data []byte) error
	Rename(from, to string) error
	Remove(path string) error
}

type osDisk struct{}

func (osDisk) Read(path string) ([]byte, error) { return os.ReadFile(path) }

func (osDisk) List(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, err
}

func (osDisk) MakeFolder(folder string) error { return os.MkdirAll(folder, 0o755) }

func (osDisk) Write(path string, data []byte) error { return os.WriteFile(path, data, 0o600) }

func (osDisk) Rename(from, to string) error { return os.Rename(from, to) }

func (osDisk) Remove(path string) error { return os.Remove(path) }

// unfinished ends the name of a file that is being written. CDI looks at .json and .yaml only.
const unfinished = ".tmp"

// replace makes data the content of the file. Whoever reads it sees the old or the new content, and a failure leaves nothing but
// the old. It does not sync; see the package comment. Two may not replace one file at a time.
//
// The CDI library writes in the same way, but leaves its unfinished file behind when the disk is full, under a name that does not
// say whose it is.
func replace(d disk, path string, data []byte) error {
	if err := d.MakeFolder(filepath.Dir(path)); err != nil {
		return err
	}
	err := d.Write(path+unfinished, data)
	if err == nil {
		err = d.Rename(path+unfinished, path)
	}
	if err != nil {
		_ = d.Remove(path + unfinished) // it may not be there, and the first error says more
	}
	return err
}
