package api

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

const benchEnds = `"source":"6d7750a1-c3f2-4765-bf8f-33bc80f3f809","destination":"7e8861b2-d403-4876-8a90-44cd91040910"`

func BenchmarkDecode(b *testing.B) {
	for _, work := range []struct{ name, body string }{
		{"transfer", `{` + benchEnds + `,"amount":1500,"transaction_id":"tx_1as4ndakdab"}`},
		{"spaced", "{\n  " + benchEnds + ",\n  \"amount\": 1500,\n  \"transaction_id\": \"tx_1as4ndakdab\"\n}\n"},
		{"escaped", `{` + benchEnds + `,"amount":1500,"description":"f\u00fcr \"Br\u00f6tchen\" \ud83d\ude00"}`},
		{"refused", `{` + benchEnds + `,"amount":1500,"sum":1500}`},
	} {
		b.Run(work.name, func(b *testing.B) {
			body := []byte(work.body)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if err := decodeTransfer(body); (err != nil) != (work.name == "refused") {
					b.Fatal(err)
				}
			}
		})
	}
}

// decodeTransfer reads the body of POST /transfers.
func decodeTransfer(body []byte) error {
	var source, destination, txID, currency, description string
	var amount ledger.Amount
	fields := [...]field{
		{name: "source", text: &source, required: true},
		{name: "destination", text: &destination, required: true},
		{name: "amount", amount: &amount, required: true},
		{name: "transaction_id", text: &txID},
		{name: "currency", text: &currency},
		{name: "description", text: &description},
	}
	return decode(body, fields[:])
}

// BenchmarkDecodeEncodingJSON is a transfer read by encoding/json, which accepts what decode does not.
func BenchmarkDecodeEncodingJSON(b *testing.B) {
	body := []byte(`{` + benchEnds + `,"amount":1500,"transaction_id":"tx_1as4ndakdab"}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		var v struct {
			Source, Destination, Currency, Description string
			Amount                                     int64
			TxID                                       string `json:"transaction_id"`
		}
		decoder := json.NewDecoder(bytes.NewReader(body))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&v); err != nil {
			b.Fatal(err)
		}
	}
}
