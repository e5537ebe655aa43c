//go:build !linux

package playground

import (
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// sysProcAttr: outside Linux there is no parent-death signal; a parent that is killed leaves its children behind.
func sysProcAttr() *syscall.SysProcAttr { return nil }

// port is a TCP port of 127.0.0.1 that was free a moment ago; see the Linux version for how to do better.
type port struct{ number int }

func reservePort() (*port, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("reserve a port of 127.0.0.1: %w", err)
	}
	defer l.Close()
	return &port{number: l.Addr().(*net.TCPAddr).Port}, nil
}

func (p *port) address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(p.number)) }

func (p *port) release() {}
