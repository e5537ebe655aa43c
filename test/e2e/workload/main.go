// Workload is the only program in the images of the end-to-end tests. It writes what its container was given to stdout,
// as one line of JSON, and waits for SIGTERM; it is also the pause process of each pod.
//
//	workload [-once] [-exit CODE] [pause]
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// report is what the tests read; package e2e has the same type.
type report struct {
	Args    []string          `json:"args"`
	Env     map[string]string `json:"env"`
	Devices []string          `json:"devices"`
}

func main() {
	once := flag.Bool("once", false, "end at once instead of waiting for SIGTERM")
	code := flag.Int("exit", 0, "the exit code")
	flag.Parse()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	if flag.Arg(0) != "pause" {
		if err := json.NewEncoder(os.Stdout).Encode(look()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if !*once {
		<-ended
	}
	os.Exit(*code)
}

func look() report {
	r := report{Args: flag.Args(), Env: map[string]string{}}
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		r.Env[name] = value
	}
	// What cannot be read is no device that was given.
	_ = filepath.WalkDir("/dev", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeDevice != 0 {
			r.Devices = append(r.Devices, path)
		}
		return nil
	})
	slices.Sort(r.Devices)
	return r
}
