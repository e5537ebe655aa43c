// Package trace reads the lists that clusters and their loads are published as: the node and pod lists of Alibaba's openb
// trace (cluster-trace-gpu-v2023) and the job list of Microsoft's Philly trace.
//
// The readers stream: a list of any length is read in memory of constant size, row by row as it is asked for. What a row
// says is checked when it is read, and the first thing that is wrong ends the reading with an *Error, which names the
// file, the line, the column, what was found and what is accepted. A column that is not known is an error too: it may be
// a misspelt one, and would else be left out in silence.
//
// What has a meaning but no chance, such as a pod larger than any node, is read; it is for the reader's user to report.
package trace
