package shard

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/saldo-ledger/saldo/internal/ledger"
)

// queued makes items for users, one or two each.
func queued(users ...[]ledger.UserID) []item {
	items := make([]item, len(users))
	for i, of := range users {
		for k, user := range of {
			items[i].keys[k] = ledger.AccountKey{User: user, Currency: "USD"}
		}
	}
	return items
}

func of(users ...ledger.UserID) []ledger.UserID { return users }

// positions says where in items the taken ones stand.
func positions(items []item, taken []*item) []int {
	var at []int
	for _, it := range taken {
		for i := range items {
			if &items[i] == it {
				at = append(at, i)
			}
		}
	}
	return at
}

func TestQueuePassesOverBusyUsers(t *testing.T) {
	t.Parallel()
	q := newQueue(100, 1, 100)
	items := queued(of("a", "b"), of("c"), of("b", "d"), of("d"), of("e"), of("a"))
	if err := q.put(items); err != nil {
		t.Fatal(err)
	}
	first := q.take(2)
	second := q.take(10)
	if got := positions(items, first); !slices.Equal(got, []int{0, 1}) {
		t.Errorf("first %v", got)
	}
	// The third waits for b; the fourth stands behind it for d; the sixth waits for a.
	if got := positions(items, second); !slices.Equal(got, []int{4}) {
		t.Errorf("second %v", got)
	}
	q.done(first)
	if got := positions(items, q.take(10)); !slices.Equal(got, []int{2, 3, 5}) {
		t.Errorf("after the first batch: %v", got)
	}
}

// A queue full of one user's items is looked at no further than to its bound.
func TestQueueLooksOnlySoFar(t *testing.T) {
	t.Parallel()
	q := newQueue(100, 1, 3)
	items := queued(of("hot"), of("hot"), of("hot"), of("hot"), of("cold"))
	_ = q.put(items)
	first := q.take(1)
	if got := q.look(10); len(got) != 0 || len(q.passed) != 3 {
		t.Errorf("took %v, passed over %d", positions(items, got), len(q.passed))
	}
	q.done(first)
	if got := positions(items, q.take(10)); !slices.Equal(got, []int{1, 2, 3, 4}) {
		t.Errorf("then %v", got)
	}
}

// A second batch is begun only for a number of items that is worth it; nothing waits where nobody is at work.
func TestQueueBeginsASecondBatchOnlyIfItIsWorthIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(100, 3, 100)
		items := queued(of("a"), of("b"), of("c"), of("d"), of("e"), of("f"))
		_ = q.put(items[:1])
		first := q.take(10)
		var second []*item
		go func() { second = q.take(10) }()
		_ = q.put(items[1:3])
		if synctest.Wait(); second != nil {
			t.Errorf("two were worth a second batch: %v", positions(items, second))
		}
		_ = q.put(items[3:4])
		if synctest.Wait(); !slices.Equal(positions(items, second), []int{1, 2, 3}) {
			t.Errorf("second %v", positions(items, second))
		}
		q.done(second)
		_ = q.put(items[4:5])
		go func() { second = q.take(10) }()
		q.done(first)
		if synctest.Wait(); !slices.Equal(positions(items, second), []int{4}) {
			t.Errorf("with nobody at work: %v", positions(items, second))
		}
		begun := time.Now()
		_ = q.put(items[5:])
		if third := q.take(10); !slices.Equal(positions(items, third), []int{5}) || time.Since(begun) != maxGather {
			t.Errorf("in the end: %v after %v", positions(items, third), time.Since(begun))
		}
	})
}

func TestQueueHasRoomForSoMany(t *testing.T) {
	t.Parallel()
	q := newQueue(3, 1, 10)
	items := queued(of("a"), of("a"), of("b"), of("c"), of("d"))
	if err := q.put(items); ledger.CodeOf(err) != ledger.CodeOverloaded {
		t.Errorf("put: %v", err)
	}
	if items[2].stage.Load() != stageQueued || items[3].stage.Load() != stageNew {
		t.Error("not the first three were queued")
	}
	q.done(q.take(1))
	if err := q.put(items[3:4]); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

func TestQueueSkipsWhatWasWithdrawn(t *testing.T) {
	t.Parallel()
	q := newQueue(10, 1, 10)
	items := queued(of("a"), of("b"), of("a"))
	_ = q.put(items)
	items[0].stage.Store(stageWithdrawn)
	if got := positions(items, q.take(10)); !slices.Equal(got, []int{1, 2}) {
		t.Errorf("took %v", got)
	}
}

func TestClosedQueueIsEmptiedFirst(t *testing.T) {
	t.Parallel()
	q := newQueue(10, 1, 10)
	items := queued(of("a"), of("a"))
	_ = q.put(items)
	first := q.take(1)
	q.close()
	late := queued(of("b"))
	if err := q.put(late); ledger.CodeOf(err) != ledger.CodeUnavailable {
		t.Errorf("put: %v", err)
	}
	second := make(chan []*item)
	go func() { second <- q.take(10) }() // waits for the user
	q.done(first)
	got := <-second
	if at := positions(items, got); !slices.Equal(at, []int{1}) {
		t.Errorf("took %v", at)
	}
	q.done(got)
	if q.take(10) != nil {
		t.Error("something came out of nothing")
	}
}

// Writers take and end batches in any order: no user is in two of them at once, each user's items come in their order, and
// all come.
func TestQueueKeepsUsersApartAndInOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		user := rapid.Custom(func(t *rapid.T) ledger.UserID {
			return ledger.UserID(fmt.Sprint("u", rapid.IntRange(0, 5).Draw(t, "user")))
		})
		q := newQueue(1000, 1, rapid.IntRange(1, 20).Draw(t, "max passed"))
		order := make(map[*item]int)
		var under [][]*item
		last, taken := make(map[ledger.UserID]int), 0
		take := func(limit int) bool {
			q.mu.Lock()
			batch := q.look(limit)
			q.mu.Unlock()
			if len(batch) == 0 {
				return false
			}
			for _, it := range batch {
				for _, key := range it.accounts() {
					for _, other := range under {
						if slices.ContainsFunc(other, func(o *item) bool {
							return slices.ContainsFunc(o.accounts(), func(k ledger.AccountKey) bool { return k.User == key.User })
						}) {
							t.Fatalf("%s is in two batches", key.User)
						}
					}
					if order[it] < last[key.User] {
						t.Fatalf("%s: item %d after %d", key.User, order[it], last[key.User])
					}
					last[key.User] = order[it]
				}
			}
			q.under++
			under, taken = append(under, batch), taken+len(batch)
			return true
		}
		end := func() {
			i := rapid.IntRange(0, len(under)-1).Draw(t, "ended")
			q.done(under[i])
			under = slices.Delete(under, i, i+1)
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch step := rapid.SampledFrom([]string{"put", "put", "take", "done"}).Draw(t, "step"); {
			case step == "put":
				items := queued(rapid.SliceOfN(rapid.SliceOfNDistinct(user, 1, 2, rapid.ID), 1, 6).Draw(t, "users")...)
				for i := range items {
					order[&items[i]] = len(order) + 1
				}
				if err := q.put(items); err != nil {
					t.Fatal(err)
				}
			case step == "take":
				take(rapid.IntRange(1, 5).Draw(t, "limit"))
			case len(under) > 0:
				end()
			}
		}
		for taken < len(order) {
			if !take(100) {
				if len(under) == 0 {
					t.Fatalf("%d of %d are stuck", len(order)-taken, len(order))
				}
				end()
			}
		}
	})
}

// Real writers, with everybody waiting for everybody: nobody sleeps while there is something for him.
func TestQueueWakesWriters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(1000, 5, 8)
		var writers, callers sync.WaitGroup
		for range 3 {
			writers.Go(func() {
				for items := q.take(4); items != nil; items = q.take(4) {
					for _, it := range items {
						it.give(answer{})
					}
					q.done(items)
				}
			})
		}
		for c := range 20 {
			callers.Go(func() {
				for i := range 50 {
					items := queued(of(ledger.UserID(fmt.Sprint("u", c%3)), ledger.UserID(fmt.Sprint("v", (c+i)%7))))
					call := &call{items: items, done: make(chan struct{})}
					call.left.Store(1)
					items[0].call = call
					if err := q.put(items); err != nil {
						t.Error(err)
						return
					}
					<-call.done
				}
			})
		}
		callers.Wait()
		q.close()
		writers.Wait()
	})
}
