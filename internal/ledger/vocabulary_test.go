package ledger_test

import (
	"strings"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

func TestParseIDs(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("x", ledger.MaxIDLength)
	for _, good := range []string{
		"a", "Z", "0", "-", "_", ":", "+", "~", "-a", "a.b", "a@b", "alice", "Alice", longest,
		"6d7750a1-c3f2-4765-bf8f-33bc80f3f809", "user:42", "a+b~c_d.e@f", "a..", "a@", "00", "NULL", "--",
	} {
		user, userErr := ledger.ParseUserID(good)
		tx, txErr := ledger.ParseTxID(good)
		shard, shardErr := ledger.ParseShardID(good)
		if string(user) != good || string(tx) != good || string(shard) != good || userErr != nil || txErr != nil || shardErr != nil {
			t.Errorf("%q: %q %v, %q %v, %q %v", good, user, userErr, tx, txErr, shard, shardErr)
		}
	}
	for _, bad := range []string{
		"", " ", " a", "a ", "a b", "a\tb", "a\nb", "a\r\n", "a\x00", "\x00", "\x7f", "a\x1b[31m", "@", "@world", "@transit", ".", "..", ".a",
		"a/b", "a\\b", "a%41", "a?b", "a#b", "a&b", "a=b", "a;b", "a,b", "a'b", `a"b`, "a`b", "a*b", "a|b", "a<b>", "(a)", "[a]", "{a}", "a!", "a$", "a^",
		"é", "ａ", "\u017f", "\u212a", "a\u200b", "a\u202e", "👍", "\xff", "a\xc3", "\xc0\xaf", longest + "x", strings.Repeat("é", 65),
	} {
		user, userErr := ledger.ParseUserID(bad)
		tx, txErr := ledger.ParseTxID(bad)
		shard, shardErr := ledger.ParseShardID(bad)
		if user != "" || tx != "" || shard != "" {
			t.Errorf("%q: %q, %q, %q", bad, user, tx, shard)
		}
		if ledger.CodeOf(userErr) != ledger.CodeInvalidUserID || ledger.CodeOf(txErr) != ledger.CodeInvalidTxID ||
			ledger.CodeOf(shardErr) != ledger.CodeInvalidShardID {
			t.Errorf("%q: %v, %v, %v", bad, userErr, txErr, shardErr)
		}
	}
}

func TestParseTxIDSaysWhatTheSeedSays(t *testing.T) {
	t.Parallel()
	_, err := ledger.ParseTxID("")
	if want := "invalid_transaction_id: valid transaction id required"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestParseCurrency(t *testing.T) {
	t.Parallel()
	for _, good := range []string{
		"USD", "EUR", "JPY", "PHP", "GBP", "CHF", "KWD", "AED", "ZWG", "ZMW", "XOF", "XAF", "XPF", "XCD", "XCG", "SLE", "VED", "CAD", "BZD",
	} {
		if currency, err := ledger.ParseCurrency(good); string(currency) != good || err != nil {
			t.Errorf("%q: %q, %v", good, currency, err)
		}
	}
	for _, bad := range []string{
		"", " ", "   ", "USD ", " USD", "US", "USDX", "usd", "Usd", "uSD", "U D", "US\x00", "\xffUS", "ＵＳＤ", "USDEUR", "USD EUR", "AED AFN",
		"ED ", " AE", "D A", "$", "840", "BTC", "AAA", "ZZZ", "\u017fAR",
		// Funds, metals, test codes, no currency, units of account.
		"USN", "CHE", "CHW", "CLF", "COU", "MXV", "UYI", "UYW", "BOV", "XAU", "XAG", "XPT", "XPD", "XTS", "XXX", "XDR", "XSU", "XUA", "XBA",
		// No longer spent.
		"DEM", "FRF", "ITL", "HRK", "BGN", "ANG", "CUC", "SLL", "ZWL", "VEF", "VEB", "MRO", "STD", "BYR", "LTL", "EEK",
	} {
		if currency, err := ledger.ParseCurrency(bad); currency != "" || ledger.CodeOf(err) != ledger.CodeInvalidCurrency {
			t.Errorf("%q: %q, %v", bad, currency, err)
		}
	}
	n := 0
	for i := range 26 * 26 * 26 {
		text := string([]byte{'A' + byte(i/676), 'A' + byte(i/26%26), 'A' + byte(i%26)})
		if _, err := ledger.ParseCurrency(text); err == nil {
			n++
		}
	}
	if n != 155 {
		t.Errorf("%d currencies", n)
	}
}

// What is parsed is safe to put anywhere: a URL's path, a log line, a statement, a file name.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"alice", "@world", "..", "USD", " AE", "a\x00b", "\xff", strings.Repeat("x", 129)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		user, err := ledger.ParseUserID(text)
		if (err == nil) != safe(text) || (err == nil && string(user) != text) || (err != nil && user != "") {
			t.Errorf("ParseUserID(%q) = %q, %v", text, user, err)
		}
		if tx, err := ledger.ParseTxID(text); (err == nil) != safe(text) || (err == nil) != (tx != "") {
			t.Errorf("ParseTxID(%q) = %q, %v", text, tx, err)
		}
		if shard, err := ledger.ParseShardID(text); (err == nil) != safe(text) || (err == nil) != (shard != "") {
			t.Errorf("ParseShardID(%q) = %q, %v", text, shard, err)
		}
		if currency, err := ledger.ParseCurrency(text); err == nil {
			if len(text) != 3 || strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || string(currency) != text {
				t.Errorf("ParseCurrency(%q) = %q", text, currency)
			}
		}
	})
}

// safe says the rule a second time, in another way.
func safe(text string) bool {
	const characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:+~@"
	return text != "" && len(text) <= 128 && strings.Trim(text, characters) == "" && !strings.HasPrefix(text, "@") && !strings.HasPrefix(text, ".") &&
		strings.Map(func(r rune) rune {
			if strings.ContainsRune(characters, r) {
				return r
			}
			return -1
		}, text) == text
}
