package admin

import (
	"maps"
	"slices"
)

// Routes are method and path of every route.
func Routes() (all []string) {
	for _, r := range (&Face{}).routes() {
		all = append(all, r.method+" "+r.path)
	}
	slices.Sort(all)
	return all
}

// Codes are those of all errors.
func Codes() []string { return slices.Sorted(maps.Keys(statuses)) }

const (
	JournalSize = journalSize
	MaxStreams  = maxStreams
)

// Similar is similar.
func Similar(text string, candidates ...string) []string { return similar(text, candidates) }
