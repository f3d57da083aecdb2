package operator

import (
	"fmt"
	"strings"
	"testing"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name                               string
		wanted                             int
		registered, retired, runs, volumes string // ids; a registered one at another address ends with !
		waits                              int    // for so many shards the founding waits; 0: it is founded
		want                               string
	}{
		{"the first", 2, "", "", "", "", 2, "new s1 s2"},
		{"half made", 3, "", "", "s1 s2", "s1", 3, "keep s1 s2 new s3"},
		{"as it should be", 2, "s1 s2", "", "s1 s2", "s1 s2", 0, "keep s1 s2"},
		{"two more", 4, "s1 s2", "", "s1 s2", "s1 s2", 0, "keep s1 s2 new s3 s4"},
		{"ten are more than nine", 2, "s9 s10 s2", "", "s9 s10 s2", "", 0, "keep s2 s9 leave s10"},
		{"the highest leave", 1, "s1 s3 s4", "s2", "s1 s3 s4", "s1 s2 s3 s4", 0, "keep s1 leave s3 s4"},
		{"what has left is ended", 2, "s1 s2", "s3 s4", "s1 s2 s3", "s1 s2 s3 s4", 0, "keep s1 s2 gone s3"},
		{"a retired id is not used again", 3, "s1 s2", "s3", "s1 s2", "", 0, "keep s1 s2 new s4"},
		{"nor one that has left a volume", 3, "s1 s2", "", "s1 s2", "s1 s2 s7", 0, "keep s1 s2 new s8"},
		{"nor somebody else's", 2, "s1 s5! gold!", "", "s1", "s1", 0, "keep s1 new s6 foreign gold s5"},
		{"nor one that was retired elsewhere", 1, "", "gold s4 s03", "", "", 0, "new s5"},
		{"nothing runs it", 2, "s1 s2", "", "s1", "s1 s2", 0, "keep s1 s2"},
		{"at another address, but it runs", 1, "s1!", "", "s1", "s1", 0, "keep s1"},
		{"fewer than it was created with", 1, "s1", "", "s1 s2", "", 3, "keep s1 s2 new s3"},
		{"more than it was created with", 3, "s1", "", "s1", "", 2, "keep s1 new s2 s3"},
		{"none, when all is to go", 0, "s1", "", "s1 s2", "", 3, "leave s1 s2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := seen{
				wanted: test.wanted, objects: set(test.runs), claims: set(test.volumes),
				registry: &Registry{Created: true, Initial: test.waits, Founded: test.waits == 0, Shards: make(map[ledger.ShardID]Shard)},
				host:     func(id ledger.ShardID) string { return "host-of-" + string(id) + ".svc" },
			}
			for id := range strings.FieldsSeq(test.registered) {
				id, elsewhere := strings.CutSuffix(id, "!")
				address := "postgres://app@" + s.host(ledger.ShardID(id)) + ":5432/saldo"
				if elsewhere {
					address = "postgres://elsewhere/x"
				}
				s.registry.Shards[ledger.ShardID(id)] = Shard{Address: address}
			}
			for id := range strings.FieldsSeq(test.retired) {
				s.registry.Retired = append(s.registry.Retired, ledger.ShardID(id))
			}
			if got := shown(makePlan(s)); got != test.want {
				t.Errorf("it is %q, not %q", got, test.want)
			}
		})
	}
}

func set(text string) map[ledger.ShardID]bool {
	ids := make(map[ledger.ShardID]bool)
	for id := range strings.FieldsSeq(text) {
		ids[ledger.ShardID(id)] = true
	}
	return ids
}

func shown(p plan) string {
	var words []string
	for _, kind := range []struct {
		part part
		name string
	}{{keep, "keep"}, {leave, "leave"}, {gone, "gone"}, {foreign, "foreign"}} {
		var ids []string
		for _, m := range p.members {
			if m.part == kind.part {
				ids = append(ids, string(m.id))
			}
		}
		if kind.part == gone && len(p.create) > 0 {
			words = append(words, "new", strings.Trim(fmt.Sprint(p.create), "[]"))
		}
		if len(ids) > 0 {
			words = append(words, kind.name+" "+strings.Join(ids, " "))
		}
	}
	return strings.Join(words, " ")
}

func TestOrdinals(t *testing.T) {
	t.Parallel()
	for id, want := range map[ledger.ShardID]int{"s1": 1, "s64": 64, "s0": 0, "s01": 0, "s-1": 0, "t1": 0, "s": 0, "s1x": 0, "": 0} {
		if ordinal, ok := ordinalOf(id); ok != (want > 0) || ok && ordinal != want {
			t.Errorf("%q: %d, %v", id, ordinal, ok)
		}
	}
}
