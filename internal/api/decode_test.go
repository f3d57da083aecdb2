package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
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

func (s *sample) fields() []field {
	return []field{
		{name: "source", text: &s.Source, required: true},
		{name: "amount", amount: &s.Amount, required: true},
		{name: "description", text: &s.Description},
	}
}

func (s *sample) decode(body []byte) error { return decode(body, s.fields()) }

// samples is a body like a batch's, of at most three.
type samples struct {
	Samples []sample `json:"samples"`
}

func (s *samples) decode(body string) error {
	var one sample
	take := func() error {
		if one.Source == "refused" {
			return malformed("source is refused")
		}
		s.Samples = append(s.Samples, one)
		return nil
	}
	return decodeText(body, []field{
		{name: "samples", objects: &objects{fields: one.fields(), most: 3, take: take}, required: true},
	})
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

func TestDecodeList(t *testing.T) {
	t.Parallel()
	for body, want := range map[string][]sample{
		`{"samples":[{"source":"a","amount":1}]}`: {{Source: "a", Amount: 1}},
		" { \"samples\"\n:[\t{\"source\":\"a\",\"amount\":1, \"description\":\"x\\u0041\" } , {\"amount\":2 ,\"source\":\"b\"},\r{\"source\":\"c\",\"amount\":3}\n] } ": {
			{Source: "a", Amount: 1, Description: "xA"}, {Source: "b", Amount: 2}, {Source: "c", Amount: 3},
		},
	} {
		var got samples
		if err := got.decode(body); err != nil || !slices.Equal(got.Samples, want) {
			t.Errorf("decode %s: %+v, %v, want %+v", body, got, err, want)
		}
	}
}

func TestDecodeListNamesThePlace(t *testing.T) {
	t.Parallel()
	const good = `{"source":"a","amount":1}`
	for body, want := range map[string]string{
		``:                                       "body must be a JSON object",
		`[` + good + `]`:                         "body must be a JSON object",
		`{}`:                                     "samples is required",
		`{"Samples":[]}`:                         `unknown field "Samples"`,
		`{"samples":[` + good + `],"x":1}`:       `unknown field "x"`,
		`{"samples":[` + good + `],"samples":1}`: "samples is given twice",
		`{"samples":` + good + `}`:               "samples must be a list",
		`{"samples":null}`:                       "samples must be a list",
		`{"samples":`:                            "body ends too early",
		`{"samples":[`:                           "body ends too early",
		`{"samples":[]}`:                         "samples must have 1 to 3 items",
		`{"samples":[` + good + `,` + good + `,` + good + `,` + good + `]}`: "samples must have 1 to 3 items",
		`{"samples":[` + good + `,` + good + `,` + good + `,`:               "samples must have 1 to 3 items",
		`{"samples":[` + good:                                        "body ends too early",
		`{"samples":[` + good + `,`:                                  "body ends too early",
		`{"samples":[` + good + `,]}`:                                "samples[1] must be an object",
		`{"samples":[,` + good + `]}`:                                "samples[0] must be an object",
		`{"samples":[` + good + good + `]}`:                          "body is not valid JSON at byte 38",
		`{"samples":[` + good + `}`:                                  "body is not valid JSON at byte 38",
		`{"samples":[[` + good + `]]}`:                               "samples[0] must be an object",
		`{"samples":[` + good + `,null]}`:                            "samples[1] must be an object",
		`{"samples":[` + good + `]} x`:                               "body must be one JSON object with nothing after it",
		`{"samples":[{}]}`:                                           "samples[0].source is required",
		`{"samples":[` + good + `,{"source":"a"}]}`:                  "samples[1].amount is required", // what the first has does not count
		`{"samples":[` + good + `,{"source":1}]}`:                    "samples[1].source must be a string",
		`{"samples":[` + good + `,{"amount":1.5}]}`:                  "samples[1].amount must be an integer from 1 to 9007199254740991",
		`{"samples":[{"amount":1,"amount":1}]}`:                      "samples[0].amount is given twice",
		`{"samples":[` + good + `,{"Source":"a"}]}`:                  `samples[1]: unknown field "Source"`,
		`{"samples":[` + good + `,{"samples":[]}]}`:                  `samples[1]: unknown field "samples"`,
		`{"samples":[{"source":"\x"}]}`:                              "samples[0].source has a malformed escape",
		`{"samples":[{"source":"\n"}]}`:                              "samples[0].source must not contain control characters",
		`{"samples":[{"a\n":1}]}`:                                    "samples[0]: a field's name must not contain control characters",
		`{"samples":[` + good + `,{"source":"a" 1}]}`:                "body is not valid JSON at byte 53",
		`{"samples":[` + good + `,{"source":"refused","amount":1}]}`: "samples[1].source is refused",
		`{"samples":[` + good + `,` + good + `],`:                    "body ends too early",
	} {
		var e *ledger.Error
		if err := new(samples).decode(body); !errors.As(err, &e) || e.Message != want {
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
		if n := countTokens(before); n != 2+2*len(members) {
			t.Fatalf("decode %q accepts %d tokens of %d members", body, n, len(members))
		}
	})
}

// FuzzDecodeList checks the same of a list.
func FuzzDecodeList(f *testing.F) {
	for _, body := range []string{
		`{"samples":[{"source":"a","amount":1}]}`, `{"samples":[{"source":"a","amount":1},{"source":"b","amount":2,"description":"\u0041"}]}`,
		`{"samples":[]}`, `{"samples":[{}]}`, `{"samples":[{"source":"a","amount":1},]}`, `{"samples":[[{"source":"a","amount":1}]]}`,
		`{"samples":[{"source":"a","amount":1}],"samples":[{"source":"b","amount":1}]}`, `{"samples":{"source":"a","amount":1}}`,
		`{"samples":[{"source":"a","amount":1,"samples":[]}]}`, ` {"samples" : [ {"amount":1 , "source":"\ud83d\ude00"} ] } `,
		`{"samples":[{"source":"a","amount":1}{"source":"a","amount":1}]}`, `{"samples":null}`, `{"samples":[null]}`,
		`{"samples":[{"source":"a","amount":1},{"source":"a","amount":1},{"source":"a","amount":1},{"source":"a","amount":1}]}`,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var got, want samples
		if err := got.decode(body); err != nil {
			if code := ledger.CodeOf(err); code != codeMalformed && code != codeAmount {
				t.Fatalf("decode %q: %v", body, err)
			}
			return
		}
		strict := json.NewDecoder(strings.NewReader(body))
		strict.DisallowUnknownFields()
		if err := strict.Decode(&want); err != nil || !slices.Equal(got.Samples, want.Samples) || strict.More() {
			t.Fatalf("decode %q: %+v, encoding/json has %+v, %v", body, got, want, err)
		}
		if n := len(got.Samples); n < 1 || n > 3 {
			t.Fatalf("decode %q: %d objects", body, n)
		}
		// No field twice, and no other case: as many tokens as known names among the members need.
		var whole map[string][]map[string]any
		if err := json.Unmarshal([]byte(body), &whole); err != nil {
			t.Fatal(err)
		}
		tokens := 2 + 1 + 2
		for _, object := range whole["samples"] {
			for name := range object {
				if name != "source" && name != "amount" && name != "description" {
					t.Fatalf("decode %q accepts field %q", body, name)
				}
			}
			tokens += 2 + 2*len(object)
		}
		if n := countTokens([]byte(body)); n != tokens {
			t.Fatalf("decode %q accepts %d tokens, not %d", body, n, tokens)
		}
	})
}

func countTokens(body []byte) (n int) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	for {
		if _, err := decoder.Token(); err != nil {
			return n
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
