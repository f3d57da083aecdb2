package api

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// field is one field of a request's body: its name and where its value goes.
type field struct {
	name     string
	text     *string        // for a string, or
	amount   *ledger.Amount // for an integer from 1 to ledger.MaxAmount
	required bool
	given    bool // set by decode
}

// decode reads one JSON object of exactly these fields. It is strict (see the package's doc): what it accepts,
// encoding/json reads as the same values, and no other reader can see other ones. Strings share one copy of the body.
// Errors are *ledger.Error and name the field.
//
// All fields are strings or amounts, so nothing nests and nothing recurses.
func decode(body []byte, fields []field) error {
	if !utf8.Valid(body) {
		return malformed("body must be valid UTF-8")
	}
	d := decoder{in: string(body)}
	if strings.HasPrefix(d.in, "\ufeff") {
		return malformed("body must not begin with a byte order mark")
	}
	if d.next() != '{' {
		return malformed("body must be a JSON object")
	}
	d.at++
	if d.next() == '}' {
		d.at++
	} else if err := d.members(fields); err != nil {
		return err
	}
	if d.next(); d.at < len(d.in) {
		return malformed("body must be one JSON object with nothing after it")
	}
	for i := range fields {
		if fields[i].required && !fields[i].given {
			return malformed(fields[i].name + " is required")
		}
	}
	return nil
}

type decoder struct {
	in string // valid UTF-8
	at int
}

// next skips white space and returns the byte there, 0 at the end. (A 0 in the body is good for nothing either.)
func (d *decoder) next() byte {
	for ; d.at < len(d.in); d.at++ {
		switch c := d.in[d.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// members reads the rest of an object that is not empty, up to and with its closing brace.
func (d *decoder) members(fields []field) error {
	for {
		if d.next() != '"' {
			return d.syntax()
		}
		name, err := d.text("a field's name")
		if err != nil {
			return err
		}
		if d.next() != ':' {
			return d.syntax()
		}
		d.at++
		d.next()
		if err := d.member(name, fields); err != nil {
			return err
		}
		c := d.next()
		d.at++
		switch c {
		case ',':
		case '}':
			return nil
		default:
			d.at--
			return d.syntax()
		}
	}
}

// member reads the value of one field.
func (d *decoder) member(name string, fields []field) error {
	for i := range fields {
		f := &fields[i]
		if f.name != name {
			continue
		}
		if f.given {
			return malformed(f.name + " is given twice")
		}
		f.given = true
		if f.amount != nil {
			amount, length := scanAmount(d.in[d.at:])
			d.at += length
			if length == 0 || !d.endsValue() {
				return badAmount(f.name)
			}
			*f.amount = amount
			return nil
		}
		if d.at == len(d.in) {
			return d.syntax()
		}
		if d.in[d.at] != '"' {
			return malformed(f.name + " must be a string")
		}
		var err error
		*f.text, err = d.text(f.name)
		return err
	}
	return malformed("unknown field " + quote(name))
}

// endsValue tells whether a number can end here.
func (d *decoder) endsValue() bool {
	return d.at == len(d.in) || strings.IndexByte(" \t\n\r,}", d.in[d.at]) >= 0
}

// text reads a string. It refuses control characters, of which no field has any; Postgres refuses the first of them.
func (d *decoder) text(what string) (string, error) {
	d.at++ // the quote
	start := d.at
	for ; d.at < len(d.in); d.at++ {
		switch c := d.in[d.at]; {
		case c == '"':
			d.at++
			return d.in[start : d.at-1], nil
		case c == '\\':
			return d.escapedText(what, start)
		case isControlAt(d.in, d.at):
			return "", controlCharacter(what)
		}
	}
	return "", d.syntax()
}

// escapedText reads the rest of a string from its first escape on.
func (d *decoder) escapedText(what string, start int) (string, error) {
	text := append(make([]byte, 0, 2*(d.at-start)+32), d.in[start:d.at]...)
	for d.at < len(d.in) {
		switch c := d.in[d.at]; {
		case c == '"':
			d.at++
			return string(text), nil
		case c == '\\':
			r, ok := d.escape()
			if !ok {
				return "", malformed(what + " has a malformed escape")
			}
			if unicode.IsControl(r) {
				return "", controlCharacter(what)
			}
			text = utf8.AppendRune(text, r)
		case isControlAt(d.in, d.at):
			return "", controlCharacter(what)
		default:
			text = append(text, c)
			d.at++
		}
	}
	return "", d.syntax()
}

// escape reads one escape, or the two of a surrogate pair. A surrogate without the other is none.
func (d *decoder) escape() (rune, bool) {
	if d.at+1 >= len(d.in) {
		return 0, false
	}
	c := d.in[d.at+1]
	d.at += 2
	switch c {
	case '"', '\\', '/':
		return rune(c), true
	case 'b', 'f', 'n', 'r', 't':
		return 0, true // any control character: all are refused
	case 'u':
		r, ok := d.hex()
		if !ok || !utf16.IsSurrogate(r) {
			return r, ok
		}
		if !strings.HasPrefix(d.in[d.at:], `\u`) {
			return 0, false
		}
		d.at += 2
		low, ok := d.hex()
		r = utf16.DecodeRune(r, low)
		return r, ok && r != unicode.ReplacementChar
	}
	return 0, false
}

func (d *decoder) hex() (rune, bool) {
	if d.at+4 > len(d.in) {
		return 0, false
	}
	var r rune
	for i := range 4 {
		c := d.in[d.at+i]
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	d.at += 4
	return r, true
}

func (d *decoder) syntax() error {
	if d.at >= len(d.in) {
		return malformed("body ends too early")
	}
	return malformed("body is not valid JSON at byte " + strconv.Itoa(d.at+1))
}

// scanAmount reads an integer from 1 to ledger.MaxAmount as JSON writes it. The length is 0 if there is none.
func scanAmount(text string) (amount ledger.Amount, length int) {
	if text == "" || text[0] == '0' {
		return 0, 0
	}
	for length < len(text) && '0' <= text[length] && text[length] <= '9' {
		amount = amount*10 + ledger.Amount(text[length]-'0')
		if amount > ledger.MaxAmount {
			return 0, 0
		}
		length++
	}
	return amount, length
}

// isControlAt tells whether a control character (C0, delete, C1) begins at text[i].
func isControlAt(text string, i int) bool {
	c := text[i]
	return c < 0x20 || c == 0x7f || c == 0xc2 && i+1 < len(text) && text[i+1] < 0xa0
}

func controlCharacter(what string) error {
	return malformed(what + " must not contain control characters")
}

func badAmount(what string) error {
	return &ledger.Error{
		Code:    codeAmount,
		Message: what + " must be an integer from 1 to " + strconv.FormatInt(int64(ledger.MaxAmount), 10),
	}
}

// quote shows what a client sent, in ASCII and not all of it.
func quote(text string) string {
	const most = 40
	if len(text) > most {
		return strconv.QuoteToASCII(text[:most]) + "…"
	}
	return strconv.QuoteToASCII(text)
}
