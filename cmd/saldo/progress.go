package main

import (
	"fmt"
	"io"
	"os"
)

// progress is a line on a terminal that says what is being done. On anything else, or if it is to be quiet, it says nothing.
type progress struct{ to io.Writer }

func newProgress(to io.Writer, quiet bool) progress {
	if quiet || !isTerminal(to) {
		return progress{io.Discard}
	}
	return progress{to}
}

func (p progress) say(text string) { fmt.Fprintf(p.to, "\r\x1b[K%s", text) }

// clear makes room for other words.
func (p progress) clear() { fmt.Fprint(p.to, "\r\x1b[K") }

func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	about, err := file.Stat()
	return err == nil && about.Mode()&os.ModeCharDevice != 0
}
