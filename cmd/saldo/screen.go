package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// screen is a terminal's second page, on which one text after the other is shown; the first one comes back as it was.
type screen struct {
	out  io.Writer
	keys <-chan byte // what is typed, byte for byte
	mode *term.State // of the terminal before; nil: it is none
	in   int         // its descriptor
}

// What a terminal is told.
const (
	secondPage = "\x1b[?1049h\x1b[?25l" // without a cursor
	firstPage  = "\x1b[?25h\x1b[?1049l"
	topLeft    = "\x1b[H"
	restOfLine = "\x1b[K"
	restOfPage = "\x1b[J"
)

// openScreen turns to the second page. Close it.
func openScreen(to streams) (*screen, error) {
	s := &screen{out: to.out}
	if file, ok := to.in.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		s.in = int(file.Fd())
		mode, err := term.MakeRaw(s.in)
		if err != nil {
			return nil, fmt.Errorf("use the terminal: %w", err)
		}
		s.mode = mode
	}
	keys := make(chan byte)
	s.keys = keys
	go func() { // a read of a terminal cannot be called off: it ends with the process
		for one := make([]byte, 1); ; {
			if n, err := to.in.Read(one); err != nil {
				return
			} else if n > 0 {
				keys <- one[0]
			}
		}
	}()
	_, err := io.WriteString(s.out, secondPage)
	return s, err
}

func (s *screen) close() {
	_, _ = io.WriteString(s.out, firstPage)
	if s.mode != nil {
		_ = term.Restore(s.in, s.mode)
	}
}

// page is what there is room for now.
func (s *screen) page() page {
	p := page{color: true}
	if file, ok := s.out.(*os.File); ok {
		p.width, p.height, _ = term.GetSize(int(file.Fd())) // unknown: any
	}
	return p
}

// draw shows a text instead of what was shown.
func (s *screen) draw(text string) {
	text = strings.ReplaceAll(text, "\n", restOfLine+"\r\n")
	_, _ = io.WriteString(s.out, topLeft+text+restOfLine+restOfPage)
}

// ends tells whether a key is q, Ctrl-C or Ctrl-D. (Ctrl-C is no signal while a terminal is read byte for byte.)
func ends(key byte) bool { return key == 'q' || key == 'Q' || key == 3 || key == 4 }
