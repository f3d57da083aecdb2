package admin

import (
	"context"
	"slices"
	"strings"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

const maxSimilar = 5

// similar returns those of the candidates that are most like a text, nearest first.
func similar(text string, candidates []string) []string {
	type near struct {
		text     string
		distance int
	}
	var found []near
	for _, candidate := range candidates {
		distance := distance(strings.ToLower(text), strings.ToLower(candidate))
		if distance <= max(2, len(text)/3) || strings.HasPrefix(candidate, text) {
			found = append(found, near{candidate, distance})
		}
	}
	slices.SortStableFunc(found, func(a, b near) int { return a.distance - b.distance })
	var nearest []string
	for _, n := range found {
		if !slices.Contains(nearest, n.text) && len(nearest) < maxSimilar {
			nearest = append(nearest, n.text)
		}
	}
	return nearest
}

// distance is Levenshtein's, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// similarIDs looks for ids like one that is not there: such that begin alike, by the keys of all shards.
func (f *Face) similarIDs(
	ctx context.Context, id string, like func(context.Context, Shard, string) ([]string, error),
) []string {
	view := f.Registry.View()
	ctx, cancel := context.WithTimeout(ctx, questionTime)
	defer cancel()
	for _, n := range []int{len(id), len(id) - 1, (len(id) + 1) / 2, (len(id) + 2) / 3} {
		if n < 1 {
			continue
		}
		found, _ := askAll(ctx, f, questionTime, shardIDs(view), func(ctx context.Context, s Shard) ([]string, error) {
			return like(ctx, s, id[:n])
		})
		var candidates []string
		for _, shard := range shardIDs(view) {
			candidates = append(candidates, found[shard]...)
		}
		if near := similar(id, candidates); len(near) > 0 {
			return near
		}
	}
	return nil
}

const likeLimit = 200 // of each shard

func usersLike(ctx context.Context, s Shard, prefix string) ([]string, error) {
	return s.UsersLike(ctx, prefix, likeLimit)
}

func transfersLike(ctx context.Context, s Shard, prefix string) ([]string, error) {
	return s.TransfersLike(ctx, prefix, likeLimit)
}

// noUser says that nobody has an id, and who has one like it.
func (f *Face) noUser(ctx context.Context, id ledger.UserID) *Error {
	err := refusal(codeUserNotFound, "there is no user %s", id)
	err.Similar = f.similarIDs(ctx, string(id), usersLike)
	return err
}
