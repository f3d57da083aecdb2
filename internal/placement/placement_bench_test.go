package placement_test

import (
	"strings"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// What a user's id looks like: a name, what ids mostly are, and the longest there may be.
var benchUsers = []struct {
	name string
	id   ledger.UserID
}{
	{"short", "alice"},
	{"uuid", "6d7750a1-c3f2-4765-bf8f-33bc80f3f809"},
	{"longest", ledger.UserID(strings.Repeat("x", ledger.MaxIDLength))},
}

func BenchmarkSlotOf(b *testing.B) {
	for _, user := range benchUsers {
		b.Run(user.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				placement.SlotOf(user.id)
			}
		})
	}
}

func BenchmarkMap(b *testing.B) {
	m, err := placement.NewMap(1, placement.Found([]ledger.ShardID{"s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"}))
	if err != nil {
		b.Fatal(err)
	}
	user := benchUsers[1].id
	b.Run("OwnerOf", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.OwnerOf(user)
		}
	})
	b.Run("HoldOn", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.HoldOn(user)
		}
	})
}

// BenchmarkNewMap is what every change of an ownership costs each process that watches.
func BenchmarkNewMap(b *testing.B) {
	owners := placement.Found([]ledger.ShardID{"s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := placement.NewMap(1, owners); err != nil {
			b.Fatal(err)
		}
	}
}
