package ledger_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

func TestErrors(t *testing.T) {
	t.Parallel()
	cause := errors.New("the pool is closed")
	for _, test := range []struct {
		err  error
		code ledger.Code
		text string
	}{
		{ledger.Conflict(), ledger.CodeConflict, "transaction_id_conflict: transaction id was already used with other contents"},
		{ledger.Unavailable("try again", cause), ledger.CodeUnavailable, "unavailable: try again: the pool is closed"},
		{ledger.Overloaded("too much"), ledger.CodeOverloaded, "overloaded: too much"},
		{
			ledger.Unknown(cause), ledger.CodeUnknown, "outcome_unknown: the outcome is not known yet: " +
				"repeat the request with the same transaction id to learn it: the pool is closed",
		},
	} {
		if test.err.Error() != test.text {
			t.Errorf("%q, want %q", test.err, test.text)
		}
		for _, err := range []error{test.err, fmt.Errorf("while: %w", test.err), errors.Join(cause, test.err)} {
			if ledger.CodeOf(err) != test.code {
				t.Errorf("%v has code %q", err, ledger.CodeOf(err))
			}
		}
	}
	if !errors.Is(ledger.Unknown(cause), cause) || !errors.Is(ledger.Unavailable("", cause), cause) {
		t.Error("the cause is lost")
	}
	if code := ledger.CodeOf(nil); code != "" {
		t.Errorf("no error has code %q", code)
	}
	if code := ledger.CodeOf(cause); code != "" {
		t.Errorf("an internal error has code %q", code)
	}
}
