package handout

import (
	"errors"
	"os"
	"sync"
)

// errDead is what a process sees that has been killed: nothing that it does has an effect any more.
var errDead = errors.New("the process is dead")

// effect is what becomes of an operation.
type effect int

const (
	works     effect = iota
	dieBefore        // the process is killed before it
	dieTorn          // or half-way
	fails            // it returns the error, and the process lives
)

// faultyDisk is the real one, with faults.
type faultyDisk struct {
	mu   sync.Mutex
	dead bool
	// n counts the operations. fault says what becomes of one; nil is no faults.
	n     int
	fault func(n int, op, path string) effect
	err   error
}

func (d *faultyDisk) kill() {
	if d != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.dead = true
	}
}

func (d *faultyDisk) killed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead
}

// do does the operation, or torn in its place, or nothing.
func (d *faultyDisk) do(op, path string, do, torn func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return errDead
	}
	e := works
	if d.fault != nil {
		e = d.fault(d.n, op, path)
	}
	d.n++
	switch e {
	case fails:
		if torn != nil {
			_ = torn()
		}
		return &os.PathError{Op: op, Path: path, Err: d.err}
	case dieBefore:
		d.dead = true
		return errDead
	case dieTorn:
		d.dead = true
		if torn != nil {
			_ = torn()
		}
		return errDead
	}
	return do()
}

func (d *faultyDisk) Read(path string) (data []byte, err error) {
	err = d.do("read", path, func() error { data, err = osDisk{}.Read(path); return err }, nil)
	return data, err
}

func (d *faultyDisk) List(folder string) (names []string, err error) {
	err = d.do("list", folder, func() error { names, err = osDisk{}.List(folder); return err }, nil)
	return names, err
}

func (d *faultyDisk) MakeFolder(folder string) error {
	return d.do("mkdir", folder, func() error { return osDisk{}.MakeFolder(folder) }, nil)
}

func (d *faultyDisk) Write(path string, data []byte) error {
	return d.do("write", path, func() error { return osDisk{}.Write(path, data) },
		func() error { return osDisk{}.Write(path, data[:len(data)/2]) })
}

func (d *faultyDisk) Rename(from, to string) error {
	return d.do("rename", from, func() error { return osDisk{}.Rename(from, to) }, nil)
}

func (d *faultyDisk) Remove(path string) error {
	return d.do("remove", path, func() error { return osDisk{}.Remove(path) }, nil)
}
