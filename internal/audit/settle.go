package audit

import (
	"context"
	"fmt"
	"time"
)

// settle lets suspects of a check be read again, each time with a fresh view and the one before, until none is left or
// patience is over. read reports what is proven wrong and returns what needs another reading: the slots have changed hands
// since the view before, or a shard could not be read.
func settle[S any](
	ctx context.Context, r *run, check Name, suspects []S, name func(S) string, read func(last, view View, suspects []S) []S,
) {
	deadline := time.Now().Add(r.options.Patience)
	gap := func(format string, args ...any) {
		r.gap(check, fmt.Sprintf("%d suspects such as %s: ", len(suspects), name(suspects[0]))+fmt.Sprintf(format, args...))
	}
	for last := r.first.view; len(suspects) > 0; {
		r.progress("reading %d suspects of %s again", len(suspects), check)
		view, err := r.world.View(ctx)
		if err != nil {
			gap("the map could not be read again: %v", err)
			return
		}
		suspects = read(last, view, suspects)
		last = view
		if len(suspects) == 0 {
			return
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			gap("their slots did not settle, or their shards could not be read")
			return
		}
		r.pause(ctx)
	}
}
