package playground

import (
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// sysProcAttr gives a child a process group of its own, so that a terminal's Ctrl-C does not reach it, and the kernel's
// promise that it does not outlive this process.
func sysProcAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// port is a TCP port of 127.0.0.1 that nobody else gets while it is held. It is held by a socket that is bound with
// SO_REUSEPORT but never listens: the kernel hands the port to no socket that asks for any free one, and gives all
// connections to the child, which binds the same port with SO_REUSEPORT too. So there is no moment between finding a free
// port and using it, and a child can be restarted on its port.
type port struct {
	number int
	once   sync.Once
	fd     int
}

func reservePort() (*port, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	p := &port{fd: fd}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		p.release()
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		p.release()
		return nil, fmt.Errorf("reserve a port of 127.0.0.1: %w", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		p.release()
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	p.number = name.(*unix.SockaddrInet4).Port
	return p, nil
}

func (p *port) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.number)) }

// release gives the port back; nil is no port.
func (p *port) release() {
	if p != nil {
		p.once.Do(func() { _ = unix.Close(p.fd) })
	}
}
