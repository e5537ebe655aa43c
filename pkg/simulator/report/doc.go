// Package report writes what simulations came to as one HTML file that needs nothing else: no network, no server, no library.
//
// [Data] is plain values, and [Write] a function of them: the same data give the same file to the byte. Whoever has runs to
// show fills in what there is; a section without data is left out.
//
// # How the page is made
//
// Charts are SVG, and tables HTML, both written by Go: they are there without JavaScript and on paper. The script adds what
// needs a hand: values under the pointer or the arrow keys, and the GPU map, which is a canvas because thousands of GPUs at
// dozens of times are too many elements. Every chart has a table of its values beside it for those who cannot see it, and
// every colour of a line a dash of its own.
//
// # Trust
//
// Names come from the lists and are text, whatever is in them: html/template escapes them, and the page's Content Security
// Policy lets nothing run and nothing load but the style and the script of this package, by their hashes.
package report
