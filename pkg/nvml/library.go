package nvml

import (
	"errors"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// ErrUnavailable is wrapped by every error that says that NVML cannot be used at all. Trying again later can help: a driver may be
// about to be installed.
var ErrUnavailable = errors.New("NVML is not available")

// ErrNoGPU is wrapped where no GPU or MIG device of the name is known.
var ErrNoGPU = errors.New("no such GPU")

// Options say where NVML's library lies.
type Options struct {
	// LibraryPath is the file libnvidia-ml.so.1, empty to search for it.
	LibraryPath string
	// DriverRoot is the folder under which the driver is installed, for example "/" or "/run/nvidia/driver"; the library is searched
	// under it. Empty leaves the search to the dynamic linker.
	DriverRoot string
}

// Library is NVML, initialised. It is safe for concurrent use.
type Library struct {
	lib nvml.Interface
}

// Open loads and initialises NVML. The error wraps [ErrUnavailable] and says what to do.
func Open(options Options) (*Library, error) { return nil, ErrUnavailable }

// New initialises any implementation of NVML's interface. The error wraps [ErrUnavailable].
func New(lib nvml.Interface) (*Library, error) { return &Library{lib: lib}, nil }

// Close ends the use of NVML. Nothing may be running and nothing may be called afterwards.
func (l *Library) Close() error { return nil }
