package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// confirmation is the flag of commands that destroy something.
type confirmation struct {
	Yes bool `name:"yes" short:"y" help:"Do it without asking."`
}

// ask has a person type a word before what cannot be taken back is done.
func (c confirmation) ask(to streams, what, word string) error {
	if c.Yes {
		return nil
	}
	fmt.Fprintf(to.err, "%s\nType %s to go on: ", what, word)
	line, err := bufio.NewReader(to.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the confirmation: %w", err)
	}
	if strings.TrimSpace(line) != word {
		return fmt.Errorf("not confirmed, so nothing was done: type %s, or say --yes", word)
	}
	return nil
}
