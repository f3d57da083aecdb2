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
	on := func(timeline int, lsn string) Position {
		return Position{Timeline: timeline, LSN: lsn, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	}
	back := func(timeline int, lsn string) Position {
		position := on(timeline, lsn)
		position.SetBack = true
		return position
	}
	for _, test := range []struct {
		noted   Position
		setBack bool
		stored  []Position
	}{
		{on(1, "0/10"), false, []Position{on(1, "0/10")}},
		{on(1, "0/20"), false, []Position{on(1, "0/20")}},
		{on(3, "0/15"), false, []Position{on(1, "0/20"), on(3, "0/15")}},
		{on(1, "0/30"), false, []Position{on(1, "0/20"), on(3, "0/15")}}, // of an old primary
		{on(3, "0/25"), false, []Position{on(1, "0/20"), on(3, "0/25")}},
		{on(3, "0/24"), true, []Position{on(1, "0/20"), on(3, "0/25"), on(3, "0/24")}},
		{on(3, "0/26"), false, []Position{on(1, "0/20"), on(3, "0/26")}}, // one was late with the one before
		{on(3, "0/3"), true, []Position{on(1, "0/20"), on(3, "0/26"), on(3, "0/3")}},
		{on(3, "0/4"), true, []Position{on(1, "0/20"), back(3, "0/26"), on(3, "0/4")}},
		{on(3, "0/30"), true, []Position{on(1, "0/20"), back(3, "0/26"), on(3, "0/30")}}, // the log has grown beyond it
		{on(3, "0/31"), true, []Position{on(1, "0/20"), back(3, "0/26"), on(3, "0/31")}},
		{on(4, "0/27"), false, []Position{on(1, "0/20"), back(3, "0/26"), on(3, "0/31"), on(4, "0/27")}}, // it was restored
	} {
		err := c.NotePosition(w.ctx, "s1", test.noted)
		if errors.Is(err, ErrSetBack) != test.setBack || err != nil && !test.setBack {
			t.Errorf("%+v: %v", test.noted, err)
		}
		if positions, err := c.Positions(w.ctx, "s1"); err != nil || !slices.Equal(positions, test.stored) {
			t.Errorf("after %+v: %+v, %v", test.noted, positions, err)
		}
	}
	for _, further := range []string{"0/FFFFFFFF", "1/0", "A/0"} {
		if err := c.NotePosition(w.ctx, "s1", on(4, further)); err != nil {
			t.Errorf("on to %s: %v", further, err)
		}
	}
	for timeline := 5; timeline < 20; timeline++ {
		if err := c.NotePosition(w.ctx, "s1", on(timeline, fmt.Sprint("0/", timeline))); err != nil {
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
