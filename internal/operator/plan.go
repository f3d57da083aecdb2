package operator

import (
	"cmp"
	"net/url"
	"slices"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// part is what is to become of a shard.
type part int

const (
	keep    part = iota // it is to serve
	leave               // it is to be emptied, and to go
	gone                // it has left: what runs it is not needed any more
	foreign             // somebody else runs it: it is shown, and left alone
)

// member is a shard that the registry knows, or that something in Kubernetes runs.
type member struct {
	id         ledger.ShardID
	part       part
	registered bool
	Shard      // as registered
}

// plan is what should be.
type plan struct {
	members []member         // in the order of their ordinals, foreign ones last
	create  []ledger.ShardID // to be made: ids that nothing has ever had
}

// seen is all that plans are made of.
type seen struct {
	wanted   int                            // shards; 0: the LedgerCluster is to go
	registry *Registry                      // of a cluster that was created
	objects  map[ledger.ShardID]bool        // that something runs
	claims   map[ledger.ShardID]bool        // that have a volume, whatever became of them
	host     func(id ledger.ShardID) string // at which the shards of this cluster are registered
}

// makePlan says which shards stay, leave and come. It is pure.
//
// The lowest ordinals stay. Ids are never used twice: a new one is larger than any that is registered, retired, run, or has
// left a volume behind, whoever's it is.
func makePlan(s seen) plan {
	var p plan
	highest := 0
	note := func(id ledger.ShardID) (ordinal int, ours bool) {
		ordinal, ours = ordinalOf(id)
		highest = max(highest, ordinal)
		return ordinal, ours
	}
	for _, id := range s.registry.Retired {
		note(id)
		if s.objects[id] {
			p.members = append(p.members, member{id: id, part: gone})
		}
	}
	for id := range s.claims {
		note(id)
	}
	var ours []member
	for id, shard := range s.registry.Shards {
		_, named := note(id)
		m := member{id: id, registered: true, Shard: shard, part: foreign}
		if s.objects[id] || named && hostOf(shard.Address) == s.host(id) {
			ours = append(ours, m)
		} else {
			p.members = append(p.members, m)
		}
	}
	for id := range s.objects {
		_, registered := s.registry.Shards[id]
		if note(id); !registered && !slices.Contains(s.registry.Retired, id) {
			ours = append(ours, member{id: id})
		}
	}
	slices.SortFunc(ours, func(a, b member) int { return byOrdinal(a.id, b.id) })
	wanted := s.wanted
	if !s.registry.Founded && wanted > 0 {
		wanted = max(wanted, s.registry.Initial) // with fewer it would wait for ever to be founded
	}
	for i := range ours {
		ours[i].part = keep
		if i >= wanted {
			ours[i].part = leave
		}
	}
	for i := len(ours); i < wanted; i++ {
		highest++
		p.create = append(p.create, shardID(highest))
	}
	slices.SortFunc(p.members, func(a, b member) int { return cmp.Or(cmp.Compare(a.part, b.part), byOrdinal(a.id, b.id)) })
	p.members = append(ours, p.members...)
	return p
}

// hostOf is the host of an address; "" if that has several, or is of another form than ours.
func hostOf(address string) string {
	parsed, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return parsed.Hostname()
}

func byOrdinal(a, b ledger.ShardID) int {
	one, _ := ordinalOf(a)
	two, _ := ordinalOf(b)
	return cmp.Or(cmp.Compare(one, two), cmp.Compare(a, b))
}
