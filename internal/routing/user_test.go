package routing_test

import (
	"reflect"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// Who creates a user again is shown the user with the money that is there by now.
func TestUserWhoIsThereHasTheirMoney(t *testing.T) {
	t.Parallel()
	s := newSystem(t, 2)
	r := s.router()
	user := s.usersOn("s2", 1)[0]
	s.create(r, 100, user)
	there, created, err := r.CreateUser(s.ctx, ledger.User{ID: user, Name: string(user)})
	if err != nil || created {
		t.Fatalf("created again: %v, %v", created, err)
	}
	want, err := r.User(s.ctx, user)
	if err != nil || len(want.Holdings) != 1 || want.Holdings[0].Balance != 100 {
		t.Fatalf("%+v, %v", want, err)
	}
	if !reflect.DeepEqual(there, want) {
		t.Errorf("shown as %+v, and is %+v", there, want)
	}
}
