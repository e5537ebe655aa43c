// Package simcmd is the command weft sim: it reads lists, runs the simulator on them, and prints what came of it.
package simcmd
