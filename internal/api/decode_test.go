package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// sample is a body like a transfer's.
type sample struct {
	Source      string        `json:"source"`
	Amount      ledger.Amount `json:"amount"`
	Description string        `json:"description"`
}

func (s *sample) decode(body []byte) error {
	fields := [...]field{
		{name: "source", text: &s.Source, required: true},
		{name: "amount", amount: &s.Amount, required: true},
		{name: "description", text: &s.Description},
	}
	return decode(body, fields[:])
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]sample{
		`{"source":"a","amount":1}`:                                               {Source: "a", Amount: 1},
		"\r\n\t {\n\"amount\" : 9007199254740991\t, \"source\" :\"\" } \n":        {Amount: ledger.MaxAmount},
		`{"s\u006furce":"\u0041\"\\\/","amount":10,"description":"\uD83D\uDE00"}`: {Source: `A"\/`, Amount: 10, Description: "😀"},
		`{"source":"é\u00e9\u00a0\ufffd\uffff","amount":7,"description":"😀\""}`:   {Source: "éé\u00a0\ufffd\uffff", Amount: 7, Description: `😀"`},
	} {
		var got sample
		if err := got.decode([]byte(body)); err != nil || got != want {
			t.Errorf("decode %s: %+v, %v, want %+v", body, got, err, want)
		}
	}
}

// What is refused is in apitest.BadInputs; here is what is said.
func TestDecodeNamesTheField(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		``:                                      "body must be a JSON object",
		`{"source":"a"`:                         "body ends too early",
		`{"source"`:                             "body ends too early",
		`{"source":`:                            "body ends too early",
		`{"source":"a`:                          "body ends too early",
		`{"source":"a" "amount":1}`:             "body is not valid JSON at byte 15",
		`{"source":"a","amount":1} x`:           "body must be one JSON object with nothing after it",
		`{}`:                                    "source is required",
		`{"source":"a"}`:                        "amount is required",
		`{"source":1}`:                          "source must be a string",
		`{"source":"a","source":"a"}`:           "source is given twice",
		`{"amount":01}`:                         "amount must be an integer from 1 to 9007199254740991",
		`{"amount":"1"}`:                        "amount must be an integer from 1 to 9007199254740991",
		`{"Amount":1}`:                          `unknown field "Amount"`,
		`{"a\u00e9":1}`:                         `unknown field "a\u00e9"`,
		`{"source":"\x"}`:                       "source has a malformed escape",
		`{"source":"\ud800"}`:                   "source has a malformed escape",
		`{"source":"\n"}`:                       "source must not contain control characters",
		"{\"source\":\"é\n\"}":                  "source must not contain control characters",
		`{"\u0000":1}`:                          "a field's name must not contain control characters",
		`{"` + strings.Repeat("x", 60) + `":1}`: `unknown field "` + strings.Repeat("x", 40) + `"…`,
	} {
		var e *ledger.Error
		if err := new(sample).decode([]byte(body)); !errors.As(err, &e) || e.Message != want {
			t.Errorf("decode %s: %v, want %s", body, err, want)
		}
	}
}

// FuzzDecode checks that decode never panics, and that what it accepts is read by encoding/json, at its strictest, as
// the same values.
func FuzzDecode(f *testing.F) {
	for _, body := range []string{
		`{"source":"a","amount":1,"description":"x"}`, `{"source":"\u0041\ud83d\ude00\"","amount":9007199254740991}`,
		`{"source":"a","amount":1,"amount":2}`, `{"Source":"a","amount":1}`, "\ufeff{}", `{"source":"é","amount":0}`,
		`{"source":"a","amount":1e3}`, `{"source":"a","amount":1}{}`, "{\"source\":\"\x00\"}", `[`, `{"source":"\ud800","amount":1}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var got, want sample
		before := bytes.Clone(body)
		if err := got.decode(body); err != nil {
			if CodeOf := ledger.CodeOf(err); CodeOf != codeMalformed && CodeOf != codeAmount {
				t.Fatalf("decode %q: %v", body, err)
			}
			return
		}
		strict := json.NewDecoder(bytes.NewReader(before))
		strict.DisallowUnknownFields()
		if err := strict.Decode(&want); err != nil || got != want {
			t.Fatalf("decode %q: %+v, encoding/json has %+v, %v", body, got, want, err)
		}
		if strict.More() || got.Amount < 1 || got.Amount > ledger.MaxAmount {
			t.Fatalf("decode %q: %+v", body, got)
		}
		// No field twice, and no other case: as many members as known names among them.
		var members map[string]any
		if err := json.Unmarshal(before, &members); err != nil {
			t.Fatal(err)
		}
		for name := range members {
			if name != "source" && name != "amount" && name != "description" {
				t.Fatalf("decode %q accepts field %q", body, name)
			}
		}
		if n := countMembers(t, before); n != len(members) {
			t.Fatalf("decode %q accepts %d members of %d names", body, n, len(members))
		}
	})
}

func countMembers(t *testing.T, body []byte) int {
	decoder := json.NewDecoder(bytes.NewReader(body))
	n := -2 // the braces
	for {
		if _, err := decoder.Token(); err != nil {
			return n / 2
		}
		n++
	}
}

// FuzzText checks that a written string is read back, as encoding/json would have written it.
func FuzzText(f *testing.F) {
	for _, text := range []string{"", "a", "\x00\n\"\\/\x7f", "é😀\u2028", "\xff\xc0", "<script>"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var got string
		if err := json.Unmarshal(appendText(nil, text), &got); err != nil || got != strings.ToValidUTF8(text, "\ufffd") && got != string([]rune(text)) {
			t.Fatalf("%q is written as %s: %v", text, appendText(nil, text), err)
		}
	})
}
