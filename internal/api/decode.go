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
	amount   *ledger.Amount // for an integer from 1 to ledger.MaxAmount, or
	objects  *objects       // for a list of objects
	required bool
	given    bool // set by decode
}

// objects is a list of 1 to most objects that have the same fields.
type objects struct {
	fields []field
	most   int
	// take is called after each object, with its values in the fields, zero where it has none. The message of an error that
	// it returns begins with the name of a field.
	take func() error
}

// decode is decodeText on one copy of the body.
func decode(body []byte, fields []field) error { return decodeText(string(body), fields) }

// decodeText reads one JSON object of exactly these fields. It is strict (see the package's doc): what it accepts,
// encoding/json reads as the same values, and no other reader can see other ones. The values share the body.
// Errors are *ledger.Error and name the field, as in "amount" or "transfers[17].amount".
//
// A list is read object by object, into the same fields, and kept nowhere. Nothing nests deeper than the fields say.
func decodeText(body string, fields []field) error {
	if !utf8.ValidString(body) {
		return malformed("body must be valid UTF-8")
	}
	d := decoder{in: body}
	if strings.HasPrefix(d.in, "\ufeff") {
		return malformed("body must not begin with a byte order mark")
	}
	if d.next() != '{' {
		return malformed("body must be a JSON object")
	}
	if err := d.object(fields); err != nil {
		return err
	}
	if d.next(); d.at < len(d.in) {
		return malformed("body must be one JSON object with nothing after it")
	}
	return nil
}

type decoder struct {
	in string // valid UTF-8
	at int
	// joint is set with an error about an object: what stands between the object's place in a list and the message.
	joint string
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

// object reads an object from its opening brace up to and with its closing brace.
func (d *decoder) object(fields []field) error {
	d.at++
	if d.next() == '}' {
		d.at++
	} else if err := d.members(fields); err != nil {
		return err
	}
	for i := range fields {
		if fields[i].required && !fields[i].given {
			return d.bad(fields[i].name, "is required")
		}
	}
	return nil
}

// members reads the rest of an object that is not empty, up to and with its closing brace.
func (d *decoder) members(fields []field) error {
	for {
		if d.next() != '"' {
			return d.syntax()
		}
		name, err := d.text("")
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
			return d.bad(f.name, "is given twice")
		}
		f.given = true
		switch {
		case f.amount != nil:
			amount, length := scanAmount(d.in[d.at:])
			d.at += length
			if length == 0 || !d.endsValue() {
				d.joint = "."
				return badAmount(f.name)
			}
			*f.amount = amount
			return nil
		case d.at == len(d.in):
			return d.syntax()
		case f.objects != nil:
			return d.objects(f.name, f.objects)
		case d.in[d.at] != '"':
			return d.bad(f.name, "must be a string")
		}
		var err error
		*f.text, err = d.text(f.name)
		return err
	}
	d.joint = ": "
	return malformed("unknown field " + quote(name))
}

// objects reads a list.
func (d *decoder) objects(name string, list *objects) error {
	if d.in[d.at] != '[' {
		return malformed(name + " must be a list")
	}
	d.at++
	if d.next() == ']' {
		return badSize(name, list.most)
	}
	for i := 0; ; i++ {
		if i == list.most {
			return badSize(name, list.most)
		}
		if err := d.item(list); err != nil {
			if d.joint == "" {
				return err
			}
			e := *err.(*ledger.Error)
			e.Message = name + "[" + strconv.Itoa(i) + "]" + d.joint + e.Message
			return &e
		}
		c := d.next()
		d.at++
		switch c {
		case ',':
		case ']':
			return nil
		default:
			d.at--
			return d.syntax()
		}
	}
}

// item reads one object of a list.
func (d *decoder) item(list *objects) error {
	if c := d.next(); d.at == len(d.in) {
		return d.syntax()
	} else if c != '{' {
		d.joint = " "
		return malformed("must be an object")
	}
	clearValues(list.fields)
	if err := d.object(list.fields); err != nil {
		return err
	}
	if err := list.take(); err != nil {
		d.joint = "."
		return err
	}
	return nil
}

// clearValues forgets the values of the object before.
func clearValues(fields []field) {
	for i := range fields {
		f := &fields[i]
		f.given = false
		if f.amount != nil {
			*f.amount = 0
		} else {
			*f.text = ""
		}
	}
}

// endsValue tells whether a number can end here.
func (d *decoder) endsValue() bool {
	return d.at == len(d.in) || strings.IndexByte(" \t\n\r,}", d.in[d.at]) >= 0
}

// text reads a string: a field's value, or a field's name if field is empty. It refuses control characters, of which no
// field has any; Postgres refuses the first of them.
func (d *decoder) text(field string) (string, error) {
	d.at++ // the quote
	start := d.at
	for ; d.at < len(d.in); d.at++ {
		switch c := d.in[d.at]; {
		case c == '"':
			d.at++
			return d.in[start : d.at-1], nil
		case c == '\\':
			return d.escapedText(field, start)
		case isControlAt(d.in, d.at):
			return "", d.badText(field, hasControl)
		}
	}
	return "", d.syntax()
}

// escapedText reads the rest of a string from its first escape on.
func (d *decoder) escapedText(field string, start int) (string, error) {
	text := append(make([]byte, 0, 2*(d.at-start)+32), d.in[start:d.at]...)
	for d.at < len(d.in) {
		switch c := d.in[d.at]; {
		case c == '"':
			d.at++
			return string(text), nil
		case c == '\\':
			r, ok := d.escape()
			if !ok {
				return "", d.badText(field, "has a malformed escape")
			}
			if unicode.IsControl(r) {
				return "", d.badText(field, hasControl)
			}
			text = utf8.AppendRune(text, r)
		case isControlAt(d.in, d.at):
			return "", d.badText(field, hasControl)
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

const hasControl = "must not contain control characters"

func (d *decoder) badText(field, problem string) error {
	if field == "" {
		d.joint = ": "
		return malformed("a field's name " + problem)
	}
	return d.bad(field, problem)
}

// bad says what is wrong with a field.
func (d *decoder) bad(field, problem string) error {
	d.joint = "."
	return malformed(field + " " + problem)
}

func badSize(list string, most int) error {
	return malformed(list + " must have 1 to " + strconv.Itoa(most) + " items")
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
