package mps

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"weft.sh/weft/pkg/gpu"
)

// PipeDirectory is CUDA_MPS_PIPE_DIRECTORY for clients of the GPU.
func PipeDirectory(root string, id gpu.ID) string { return filepath.Join(root, string(id), "pipe") }

// LogDirectory is CUDA_MPS_LOG_DIRECTORY.
func LogDirectory(root string, id gpu.ID) string { return filepath.Join(root, string(id), "log") }

// sharedMemory is the folder that is /dev/shm of the daemons and their clients.
func sharedMemory(root string) string { return filepath.Join(root, "shm") }

func lockFile(root string, id gpu.ID) string { return filepath.Join(root, string(id), "lock") }

func readyFile(root string, id gpu.ID) string { return filepath.Join(root, string(id), "ready") }

// Ready reports whether the GPU's control daemon answers and is looked after.
func Ready(root string, id gpu.ID) bool {
	if _, err := os.Stat(readyFile(root, id)); err != nil {
		return false
	}
	lock, err := os.Open(lockFile(root, id))
	if err != nil {
		return false
	}
	defer lock.Close() // which also lets go of the lock, had nobody held it
	return errors.Is(syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// errLocked is for a GPU that another process looks after.
var errLocked = errors.New("another process runs the GPU's MPS control daemon")

// claim makes the GPU's folder and locks it until the file that it returns is closed.
func claim(root string, id gpu.ID) (*os.File, error) {
	// Clients of every user reach the daemon, and servers that run as one of them write beside it.
	for dir, mode := range map[string]os.FileMode{
		filepath.Join(root, string(id)): 0o755, PipeDirectory(root, id): 0o777 | os.ModeSticky, LogDirectory(root, id): 0o755,
	} {
		if err := makeFolder(dir, mode); err != nil {
			return nil, err
		}
	}
	err := os.Symlink(filepath.Join("..", filepath.Base(sharedMemory(root))), filepath.Join(root, string(id), "shm"))
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	lock, err := os.OpenFile(lockFile(root, id), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s is locked", errLocked, lock.Name())
		}
		return nil, fmt.Errorf("%s: %w", lock.Name(), err)
	}
	return lock, nil
}

// makeFolder makes a folder of that mode, whatever the umask is.
func makeFolder(dir string, mode os.FileMode) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}

// shareMemory makes the folder that is to be seen at devShm and errs unless it is.
func shareMemory(root, devShm string) error {
	folder := sharedMemory(root)
	if err := makeFolder(folder, 0o777|os.ModeSticky); err != nil {
		return err
	}
	want, err := os.Stat(folder)
	if err != nil {
		return err
	}
	if got, err := os.Stat(devShm); err != nil || !os.SameFile(want, got) {
		return fmt.Errorf("%s is not %s: mount that folder there, or the clients of MPS do not find what the daemons share with them",
			devShm, folder)
	}
	return nil
}

// sweep empties the pipe folder of what a killed daemon has left, and keeps the folder: containers have it mounted.
func sweep(root string, id gpu.ID) error {
	entries, err := os.ReadDir(PipeDirectory(root, id))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(PipeDirectory(root, id), e.Name())); err != nil {
			return err
		}
	}
	return nil
}
