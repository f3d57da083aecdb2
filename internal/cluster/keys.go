package cluster

import (
	"fmt"
	"strings"

	"github.com/saldo-ledger/saldo/internal/ledger"
	"github.com/saldo-ledger/saldo/internal/placement"
)

// keys names every key of one cluster. See the package's doc for what they hold.
type keys struct{ prefix string } // ends with "/"

func (k keys) config() string                     { return k.prefix + "config" }
func (k keys) shards() string                     { return k.prefix + "shards/" }
func (k keys) shard(id ledger.ShardID) string     { return k.shards() + string(id) }
func (k keys) retired() string                    { return k.prefix + "retired/" }
func (k keys) tombstone(id ledger.ShardID) string { return k.retired() + string(id) }
func (k keys) slots() string                      { return k.prefix + "slots/" }
func (k keys) chunk(chunk int) string             { return fmt.Sprintf("%s%02x", k.slots(), chunk) }
func (k keys) moves() string                      { return k.prefix + "moves/" }
func (k keys) move(id placement.MoveID) string    { return k.moves() + string(id) }
func (k keys) positions(id ledger.ShardID) string { return k.prefix + "positions/" + string(id) }
func (k keys) audit() string                      { return k.prefix + "audit" }
func (k keys) leaders() string                    { return k.prefix + "leaders/" }
func (k keys) election(name string) string        { return k.leaders() + name + "/" }
func (k keys) kind(kind string) string            { return k.prefix + "live/" + kind + "/" }

// mapped tells whether the key is part of a View.
func (k keys) mapped(key string) bool {
	of := func(prefix string) bool { return strings.HasPrefix(key, prefix) }
	return key == k.config() || of(k.shards()) || of(k.slots()) || of(k.moves())
}

const maxNameLength = 300 // bytes

// checkName makes sure that a name is one segment of a key.
func checkName(what, name string) error {
	bad := func(r rune) bool { return r == '/' || r <= ' ' || r == 0x7f }
	if name == "" || len(name) > maxNameLength || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("%s %q must be 1 to %d bytes without slash, space or control characters", what, name, maxNameLength)
	}
	return nil
}
