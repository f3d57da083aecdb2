package cluster

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestPositions(t *testing.T) {
	w := newWorld(t)
	c := w.connect()
	if positions, err := c.Positions(w.ctx, "s1"); err != nil || len(positions) > 0 {
		t.Fatalf("before anything was noted: %+v, %v", positions, err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		noted  Position
		stored []Position
	}{
		{Position{1, "0/10", at}, []Position{{1, "0/10", at}}},
		{Position{1, "0/20", at}, []Position{{1, "0/20", at}}},
		{Position{3, "0/15", at}, []Position{{1, "0/20", at}, {3, "0/15", at}}},
		{Position{1, "0/30", at}, []Position{{1, "0/20", at}, {3, "0/15", at}}}, // of an old primary
		{Position{3, "0/25", at}, []Position{{1, "0/20", at}, {3, "0/25", at}}},
	} {
		if err := c.NotePosition(w.ctx, "s1", test.noted); err != nil {
			t.Fatal(err)
		}
		if positions, err := c.Positions(w.ctx, "s1"); err != nil || !slices.Equal(positions, test.stored) {
			t.Errorf("after %+v: %+v, %v", test.noted, positions, err)
		}
	}
	for _, back := range []string{"0/24", "0/3"} {
		if err := c.NotePosition(w.ctx, "s1", Position{3, back, at}); !errors.Is(err, ErrSetBack) {
			t.Errorf("back to %s: %v", back, err)
		}
	}
	for _, on := range []string{"0/FFFFFFFF", "1/0", "A/0"} {
		if err := c.NotePosition(w.ctx, "s1", Position{3, on, at}); err != nil {
			t.Errorf("on to %s: %v", on, err)
		}
	}
	for timeline := 4; timeline < 20; timeline++ {
		if err := c.NotePosition(w.ctx, "s1", Position{timeline, fmt.Sprint("0/", timeline), at}); err != nil {
			t.Fatal(err)
		}
	}
	positions, err := c.Positions(w.ctx, "s1")
	if err != nil || len(positions) != keptPositions || positions[0].Timeline != 12 || positions[7].Timeline != 19 {
		t.Errorf("after many failovers: %+v, %v", positions, err)
	}
	if positions, err := c.Positions(w.ctx, "s2"); err != nil || len(positions) > 0 {
		t.Errorf("of another shard: %+v, %v", positions, err)
	}
}
